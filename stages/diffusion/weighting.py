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

    def of(self, alpha_bar_I: Tensor, target: Target) -> Tensor:
        del target
        return alpha_bar_I.new_ones(alpha_bar_I.shape)


class MinSnr(Section):
    """An error of x_0 counts min(SNR, gamma), SNR = alpha_bar / (1 - alpha_bar) (Hang et al. 2023, eq. 8).

    That is min(SNR, gamma) / SNR for the error of the noise.

    At little noise the error is mostly noise that nobody can predict; it drowns the part that the text decides.
    """

    kind: Literal["min-snr"] = "min-snr"
    gamma: float = Field(5.0, gt=0)

    def of(self, alpha_bar_I: Tensor, target: Target) -> Tensor:
        noise_to_signal = (1 - alpha_bar_I) / alpha_bar_I
        weights: Tensor = (self.gamma * noise_to_signal).clamp(max=1) * target.noise_error(alpha_bar_I)
        return weights


Weighting = Annotated[Uniform | MinSnr, Field(discriminator="kind")]
