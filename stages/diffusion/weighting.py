"""How much an image's error counts by its noise level. A weighting is a frozen model with a `kind`, in the union below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stages.core.config import Section

if TYPE_CHECKING:
    from torch import Tensor


class Uniform(Section):
    """Every t counts the same (paper)."""

    kind: Literal["uniform"] = "uniform"

    def of(self, alpha_bar_I: Tensor) -> Tensor:
        return alpha_bar_I.new_ones(alpha_bar_I.shape)


class MinSnr(Section):
    """min(SNR, gamma) / SNR with SNR = alpha_bar / (1 - alpha_bar) (Hang et al. 2023, eq. 8, noise prediction).

    At little noise the error is mostly noise that nobody can predict; it drowns the part that the text decides.
    """

    kind: Literal["min-snr"] = "min-snr"
    gamma: float = Field(5.0, gt=0)

    def of(self, alpha_bar_I: Tensor) -> Tensor:
        noise_to_signal = (1 - alpha_bar_I) / alpha_bar_I
        weights: Tensor = (self.gamma * noise_to_signal).clamp(max=1)
        return weights


Weighting = Annotated[Uniform | MinSnr, Field(discriminator="kind")]
