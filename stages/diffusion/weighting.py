"""How much the error of an image's target counts by its noise level. A frozen model with a `kind`, in the union below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stages.core.config import Section
from stages.diffusion.targets import Target

if TYPE_CHECKING:
    from torch import Tensor


class Uniform(Section):
    """Every t counts the same (paper)."""

    kind: Literal["uniform"] = "uniform"
    """The squared error of the target counts the same at every noise level."""

    def of(self, a_I: Tensor, b_I: Tensor, target: Target) -> Tensor:
        """The weight of an error of the target at signal a and noise level b."""
        del b_I, target
        return a_I.new_ones(a_I.shape)


class MinSnr(Section):
    """An error of x_0 counts min(SNR, gamma), SNR = a^2 / b^2 (Hang et al. 2023, eq. 8).

    That is min(SNR, gamma) / SNR for the error of the noise.

    At little noise the error is mostly noise that nobody can predict; it drowns the part that the text decides.
    """

    kind: Literal["min-snr"] = "min-snr"
    """Limit the weight of images with little noise, so that the noisy ones, where the text decides, count more."""
    gamma: float = Field(5.0, gt=0)
    """The limit of the signal-to-noise ratio; smaller gives high noise more weight. 5 is the value of the article."""

    def of(self, a_I: Tensor, b_I: Tensor, target: Target) -> Tensor:
        noise_to_signal = (b_I / a_I) ** 2
        weights: Tensor = (self.gamma * noise_to_signal).clamp(max=1) * target.noise_error(a_I, b_I)
        return weights


Weighting = Annotated[Uniform | MinSnr, Field(discriminator="kind")]
