"""What the model predicts of an image. A target is a frozen pydantic model with a `kind`, in the union below.

x_t = alpha x_0 + sigma eps, with alpha and sigma of the schedule; each is a tensor that broadcasts, or a number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stages.core.config import Section

if TYPE_CHECKING:
    from torch import Tensor


class NoiseTarget(Section):
    """eps, the noise itself (paper, eq. 3)."""

    kind: Literal["noise"] = "noise"
    """The noise that was added (epsilon prediction; paper, equation 3)."""

    def compute(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the model should predict for x_t, of the shape of x0."""
        del x0, alpha, sigma
        return eps

    def to_x0(self, output: Tensor, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        """The x_0 that follows from an output. Where alpha is almost 0, any error of the predicted noise is amplified."""
        return (x_t - sigma * output) / max(alpha, 1e-6)

    def eps_mse_factor(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Squared error of eps that a squared error of 1 of the output amounts to."""
        del sigma
        return alpha.new_ones(alpha.shape)


class CleanTarget(Section):
    """x_0 itself: for patches of more values than the model can carry, where noise cannot be predicted (Li and He 2025)."""

    kind: Literal["clean"] = "clean"
    """The clean latents x_0; for patches with more values than the model's width can carry."""

    def compute(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        del eps, alpha, sigma
        return x0

    def to_x0(self, output: Tensor, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        del x_t, alpha, sigma
        return output

    def eps_mse_factor(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha / sigma) ** 2


class VelocityTarget(Section):
    """alpha eps - sigma x_0, for schedules that keep alpha^2 + sigma^2 = 1 (Salimans and Ho 2022, section 4).

    Near t = T the noise is almost x_t itself, and the image is a small difference from it; the velocity is almost -x_0
    there. Unweighted, its loss counts a squared error of x_0 by 1 + SNR, that of "noise" by SNR, which is almost 0 there. (With
    `min-snr` all targets have the same loss, and only the output of the last layer differs.)
    """

    kind: Literal["velocity"] = "velocity"
    """alpha eps - sigma x_0 (v prediction). Without weighting, errors of the image at high noise count, which with "noise" they
    hardly do; with weighting "min-snr" both have the same loss."""

    def compute(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * eps - sigma * x0

    def to_x0(self, output: Tensor, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        return (alpha * x_t - sigma * output) / (alpha * alpha + sigma * sigma)

    def eps_mse_factor(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha / (alpha * alpha + sigma * sigma)) ** 2


class FlowTarget(Section):
    """eps - x_0, the velocity of rectified flow's straight lines (Liu et al. 2023, eq. 1), for the schedule `flow`."""

    kind: Literal["flow"] = "flow"
    """eps - x_0, the velocity of rectified flow; needs schedule "flow"."""

    def compute(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        del alpha, sigma
        return eps - x0

    def to_x0(self, output: Tensor, x_t: Tensor, alpha: float, sigma: float) -> Tensor:
        return (x_t - sigma * output) / (alpha + sigma)

    def eps_mse_factor(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha / (alpha + sigma)) ** 2


Target = Annotated[NoiseTarget | CleanTarget | VelocityTarget | FlowTarget, Field(discriminator="kind")]
