"""Samplers: from noise to a clean latent, for x_t = a x_0 + b eps. A walk yields (x_t, t) and is sent the estimate of x_0.

Generators and not loops around a function, so that the walks of images of other sizes, or begun at another time, can be
asked in turn and answered by one pass of the model. A sampler is a frozen pydantic model with a `kind`; a new one is a
class here and a name in the union. It never sees the model class. Each estimate of x_0 is held inside `limit`, the range of
the training latents: near t = T that of a noise prediction is its error made huge. torch is not imported at the top, so
that recipes load without it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from stages.core.config import Section

if TYPE_CHECKING:
    from torch import Tensor

    from stages.diffusion.process import Diffusion

Walk = Generator[tuple["Tensor", int], "Tensor", "Tensor"]
DrawNoise = Callable[[], "Tensor"]


def answered(walk: Walk, denoise: Callable[[Tensor, int], Tensor]) -> Tensor:
    """The end of a walk whose every question is answered by `denoise(x_t, t) -> x_0`."""
    try:
        x, t = next(walk)
        while True:
            x, t = walk.send(denoise(x, t))
    except StopIteration as end:
        clean: Tensor = end.value
        return clean


def respaced(num_steps: int, total: int) -> list[int]:
    """`num_steps` times from T down, evenly spaced, followed by 0: num_steps + 1 entries."""
    steps = min(num_steps, total)
    return [int(t) for t in np.round(np.linspace(total, 0, steps + 1))]


class DdpmSampler(Section):
    """Ancestral sampling (Ho et al. 2020, alg. 2) on respaced times: the paper's 250 of 1,000 steps."""

    kind: Literal["ddpm"] = "ddpm"
    steps: int = Field(250, ge=1)

    def walk(self, x: Tensor, diffusion: Diffusion, draw_noise: DrawNoise, limit: float) -> Walk:
        """x: noise (I, C, h, w). Each step draws fresh noise but the last. Returns x_0."""
        for t, t_next in pairwise(respaced(self.steps, diffusion.num_steps)):
            clean = (yield x, t).clamp(-limit, limit)
            if t_next == 0:
                return clean
            a, b, a_next, b_next = _levels(diffusion, t, t_next)
            # Mean and variance of q(x_next | x_t, x_0): Ho et al. 2020, eq. 7, for any a and b and a respaced step.
            ratio = a / a_next
            fresh = b**2 - (ratio * b_next) ** 2
            mean = (ratio * b_next**2 * x + a_next * fresh * clean) / b**2
            x = mean + (fresh**0.5 * b_next / b) * draw_noise()
        return x


class DdimSampler(Section):
    """Deterministic DDIM (Song et al. 2021, eq. 12 with sigma 0): good from about 25 steps. With the schedule `flow` it is
    Euler's method along rectified flow's velocity."""

    kind: Literal["ddim"] = "ddim"
    steps: int = Field(25, ge=1)

    def walk(self, x: Tensor, diffusion: Diffusion, draw_noise: DrawNoise, limit: float) -> Walk:
        """x: noise (I, C, h, w). Draws nothing. Returns x_0."""
        del draw_noise
        for t, t_next in pairwise(respaced(self.steps, diffusion.num_steps)):
            clean = (yield x, t).clamp(-limit, limit)
            if t_next == 0:
                return clean
            a, b, a_next, b_next = _levels(diffusion, t, t_next)
            x = a_next * clean + b_next * (x - a * clean) / b
        return x


def _levels(diffusion: Diffusion, t: int, t_next: int) -> tuple[float, float, float, float]:
    return (
        float(diffusion.signal[t]),
        float(diffusion.noise[t]),
        float(diffusion.signal[t_next]),
        float(diffusion.noise[t_next]),
    )


Sampler = Annotated[DdpmSampler | DdimSampler, Field(discriminator="kind")]
