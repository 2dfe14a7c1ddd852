"""What the model is asked to predict. A target is a frozen model with a `kind`, in the union below.

x_t = a x_0 + b eps, with signal a and noise level b of the schedule; each a tensor that broadcasts, or a number.
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

    def of(self, clean: Tensor, noise: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """What the model should give for x_t."""
        del clean, a, b
        return noise

    def to_clean(self, output: Tensor, x_t: Tensor, a: float, b: float) -> Tensor:
        """The x_0 that an output stands for. Where a is almost 0 it is any error of the noise, made huge."""
        return (x_t - b * output) / max(a, 1e-6)

    def noise_error(self, a: Tensor, b: Tensor) -> Tensor:
        """Squared error of the noise for a squared error of 1 of the output."""
        del b
        return a.new_ones(a.shape)


class CleanTarget(Section):
    """x_0 itself: for patches of more values than the model can carry, where noise cannot be given back (Li and He 2025)."""

    kind: Literal["clean"] = "clean"
    """The clean latents x_0; for patches with more values than the model's width can carry."""

    def of(self, clean: Tensor, noise: Tensor, a: Tensor, b: Tensor) -> Tensor:
        del noise, a, b
        return clean

    def to_clean(self, output: Tensor, x_t: Tensor, a: float, b: float) -> Tensor:
        del x_t, a, b
        return output

    def noise_error(self, a: Tensor, b: Tensor) -> Tensor:
        return (a / b) ** 2


class VelocityTarget(Section):
    """a eps - b x_0, for schedules that keep a^2 + b^2 = 1 (Salimans and Ho 2022, section 4).

    Near t = T the noise is almost x_t itself, and what the picture should be is a small difference from it; the velocity is
    almost -x_0 there. Unweighted, its loss counts those levels more. (Under `min-snr` all targets have the same loss, and
    what differs is only what the last layer has to give.)
    """

    kind: Literal["velocity"] = "velocity"
    """alpha eps - sigma x_0 (v prediction); learns what the image is at high noise sooner than "noise"."""

    def of(self, clean: Tensor, noise: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return a * noise - b * clean

    def to_clean(self, output: Tensor, x_t: Tensor, a: float, b: float) -> Tensor:
        return (a * x_t - b * output) / (a * a + b * b)

    def noise_error(self, a: Tensor, b: Tensor) -> Tensor:
        return (a / (a * a + b * b)) ** 2


class FlowTarget(Section):
    """eps - x_0, the speed of rectified flow's straight lines (Liu et al. 2023, eq. 1), for the schedule `flow`."""

    kind: Literal["flow"] = "flow"
    """eps - x_0, the velocity of rectified flow; needs schedule "flow"."""

    def of(self, clean: Tensor, noise: Tensor, a: Tensor, b: Tensor) -> Tensor:
        del a, b
        return noise - clean

    def to_clean(self, output: Tensor, x_t: Tensor, a: float, b: float) -> Tensor:
        return (x_t - b * output) / (a + b)

    def noise_error(self, a: Tensor, b: Tensor) -> Tensor:
        return (a / (a + b)) ** 2


Target = Annotated[NoiseTarget | CleanTarget | VelocityTarget | FlowTarget, Field(discriminator="kind")]
