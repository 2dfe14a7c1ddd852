"""The recipe section [diffusion]: the image loss. Its parts are in schedules.py, targets.py, timesteps.py and weighting.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stages.core.config import Section
from stages.diffusion.schedules import CosineSchedule, Schedule
from stages.diffusion.targets import NoiseTarget, Target
from stages.diffusion.timesteps import TimestepDistribution, UniformTimesteps
from stages.diffusion.weighting import Uniform, Weighting


class DiffusionConfig(Section):
    """image_weight: lambda of L = L_LM + lambda L_DDPM (paper, eq. 4: 5).

    target: what the model predicts. weighting: of the image loss by noise level. times: how t is drawn. Rectified flow is
    schedule and target "flow" with times "logit-normal". Logged and held-out image losses are always the unweighted error of
    the noise.
    noise_limit: highest t for the image that begins a document (paper, table 8: 500 of 1000); the number of steps of the
    schedule switches it off. 0: such an image is given, clean and without a loss, as a picture to describe or to edit is.
    context_images: what later elements of a document read of an image: "noised", the very patches that the image loss is
    about (paper, section 4.3.4), or "clean", a copy at t = 0, as at sampling; the noised patches are then seen by themselves
    alone (BAGEL). Copies make rows longer.
    """

    schedule: Schedule = CosineSchedule()
    image_weight: float = Field(5.0, ge=0)
    noise_limit: int = Field(500, ge=0)
    context_images: Literal["noised", "clean"] = "noised"
    target: Target = NoiseTarget()
    weighting: Weighting = Uniform()
    times: TimestepDistribution = UniformTimesteps()

    @model_validator(mode="after")
    def _check(self) -> DiffusionConfig:
        if (self.schedule.kind == "flow") != (self.target.kind == "flow") and self.target.kind != "clean":
            raise ValueError(
                f'schedule "{self.schedule.kind}" does not go with target "{self.target.kind}": take "flow" for both'
            )
        return self
