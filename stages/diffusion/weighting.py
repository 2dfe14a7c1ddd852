"""How much the squared error of an image counts at its noise level. A frozen pydantic model with a `kind`, in the union below."""

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

    def weight(self, alpha_I: Tensor, sigma_I: Tensor, target: Target) -> Tensor:
        """The weight of each image's squared error of the target, (I,), at its alpha and sigma."""
        del sigma_I, target
        return alpha_I.new_ones(alpha_I.shape)


class MinSnr(Section):
    """A squared error of x_0 counts min(SNR, gamma), SNR = alpha^2 / sigma^2 (Hang et al. 2023, eq. 8).

    That is min(SNR, gamma) / SNR for the squared error of eps: the weight falls where there is little noise, where most of the
    error is detail that the text does not decide. Where SNR < gamma an error of x_0 counts SNR, exactly as with target "noise"
    and no weighting: with the cosine schedule 0.10 at t = 800 of 1,000 and 0.025 at t = 900. So it adds nothing there; target
    "velocity" without weighting counts 1 + SNR, 1.10 and 1.02.
    """

    kind: Literal["min-snr"] = "min-snr"
    """Limit the weight of images with little noise. Very noisy ones count as with target "noise" and no weighting, which is
    little; target "velocity" or "flow" with weighting "uniform" counts them much more."""
    gamma: float = Field(5.0, gt=0)
    """The limit of the signal-to-noise ratio. Smaller lowers the weight of images with little noise further; that of noisy ones
    stays what it is, so that their share of the loss grows. 5 is the value of the article."""

    def weight(self, alpha_I: Tensor, sigma_I: Tensor, target: Target) -> Tensor:
        inverse_snr = (sigma_I / alpha_I) ** 2
        weights: Tensor = (self.gamma * inverse_snr).clamp(max=1) * target.eps_mse_factor(alpha_I, sigma_I)
        return weights


Weighting = Annotated[Uniform | MinSnr, Field(discriminator="kind")]
