"""What the model is asked to predict. A target is a frozen model with a `kind`, in the union below.

signal, noise_level: sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), each a tensor that broadcasts or a number.
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

    def of(self, clean: Tensor, noise: Tensor, signal: Tensor, noise_level: Tensor) -> Tensor:
        """What the model should give for x_t = signal * clean + noise_level * noise."""
        del clean, signal, noise_level
        return noise

    def to_noise(self, output: Tensor, x_t: Tensor, signal: Tensor | float, noise_level: Tensor | float) -> Tensor:
        """The noise that an output stands for."""
        del x_t, signal, noise_level
        return output

    def noise_error(self, alpha_bar: Tensor) -> Tensor:
        """Squared error of the noise for a squared error of 1 of the output."""
        return alpha_bar.new_ones(alpha_bar.shape)


class VelocityTarget(Section):
    """v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans and Ho 2022, section 4).

    Near t = T the noise is almost x_t itself, and what the picture should be is a small difference from it; v is almost
    -x_0 there. Unweighted, its loss counts those levels more. (Under `min-snr` both targets have the same loss, and what
    differs is only what the last layer has to give.)
    """

    kind: Literal["velocity"] = "velocity"

    def of(self, clean: Tensor, noise: Tensor, signal: Tensor, noise_level: Tensor) -> Tensor:
        return signal * noise - noise_level * clean

    def to_noise(self, output: Tensor, x_t: Tensor, signal: Tensor | float, noise_level: Tensor | float) -> Tensor:
        noise: Tensor = signal * output + noise_level * x_t
        return noise

    def noise_error(self, alpha_bar: Tensor) -> Tensor:
        return alpha_bar


Target = Annotated[NoiseTarget | VelocityTarget, Field(discriminator="kind")]
