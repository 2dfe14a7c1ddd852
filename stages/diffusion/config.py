"""The recipe section [diffusion]: the image loss. Its parts are in schedules.py, targets.py, timesteps.py and weighting.py."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stages.core.config import Section, later
from stages.diffusion.schedules import CosineSchedule, Schedule
from stages.diffusion.targets import NoiseTarget, Target
from stages.diffusion.timesteps import TimestepDistribution, UniformTimesteps
from stages.diffusion.weighting import Uniform, Weighting


class DiffusionConfig(Section):
    """The image loss: how latents are noised, what the model predicts, and how much it counts. Rectified flow is schedule "flow",
    target "flow" and times "logit-normal". Logged and held-out image losses are always the unweighted squared error of the
    noise, so that runs can be compared."""

    schedule: Schedule = CosineSchedule()
    """The noise schedule: how much of the image and how much noise x_t has at each time t (paper, section 2.2: cosine)."""
    image_weight: float = Field(5.0, ge=0)
    """Lambda of the loss L = L_LM + lambda L_DDPM (paper, equation 4 and section 4.1: 5)."""
    prompt_weight: float = later(1.0, ge=0)
    """How much the loss of text before the first image of its document counts (paper: 1, as all text). Little of a caption that
    is drawn can be predicted, so that its gradient is mostly noise; below 1, text that reads an image counts more."""
    noise_limit: int = Field(500, ge=0)
    """Highest t for an image that begins its document, so that the text after it describes what can be seen (paper, section
    4.3.4, table 8: 500 of 1000). The number of steps of the schedule, or more: no limit. 0: such an image stays clean and has no
    image loss, as a picture to describe or to edit."""
    limited_images: Literal["first", "read"] = later("first")
    """The images that noise_limit holds for: "first", those that begin their document (paper), or "read", those whose noised
    patches text or another image comes after, wherever they are. With context_images "clean" nothing reads noised patches, so
    that "read" limits no image, and one that begins its document is also learnt from pure noise."""
    context_images: Literal["noised", "clean"] = "noised"
    """What later elements of a document see of an image: "noised", the patches of the image loss itself (paper, section 4.3.4),
    or "clean", a copy at t = 0, as in sampling; later elements then do not see the noised patches (as in BAGEL). Copies make
    documents longer in training."""
    target: Target = NoiseTarget()
    """What the model predicts of an image (paper, equation 3: the noise)."""
    weighting: Weighting = Uniform()
    """How much the image loss counts at each noise level (paper: the same at all)."""
    times: TimestepDistribution = UniformTimesteps()
    """How the time t of each training image is drawn; it also spaces the steps of a sampler."""
    stratified_times: bool = later(False)
    """Whether the times of a row's images, and of the draws of an image, cover their distribution evenly: each of n times is
    drawn from another of n equally likely ranges. Every single time is distributed as without it; the loss of a step varies
    less."""
    noise_draws: int = later(1, ge=1)
    """How often each image with a loss is in a training batch, each time with its own t and noise, hidden from all else: that
    many image gradients for one pass over the text (paper: 1). With context_images "noised" later elements read the first. The
    image loss stays a mean over all of them. Draws make documents longer in training; held-out losses use one."""

    @model_validator(mode="after")
    def _check(self) -> DiffusionConfig:
        if (self.schedule.kind == "flow") != (self.target.kind == "flow") and self.target.kind != "clean":
            raise ValueError(
                f'schedule "{self.schedule.kind}" does not go with target "{self.target.kind}": take "flow" for both'
            )
        if self.noise_limit == 0 and self.limited_images == "read":
            raise ValueError(
                'noise_limit 0 gives the image that begins a document, and goes with limited_images "first"'
            )
        return self
