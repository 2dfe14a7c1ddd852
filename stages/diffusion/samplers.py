"""Samplers: from noise to a clean latent through calls of `denoise(x_t, t) -> eps`.

A sampler is a frozen pydantic model with a `kind`; a new one is a class here and a name in the union. It never sees the
model class. torch is not imported at the top, so that recipes load without it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from stages.core.config import Section

if TYPE_CHECKING:
    from torch import Tensor

    from stages.diffusion.process import Diffusion

Denoise = Callable[["Tensor", int], "Tensor"]
DrawNoise = Callable[[], "Tensor"]


def respaced(num_steps: int, total: int) -> list[int]:
    """`num_steps` times from T down, evenly spaced, followed by 0: num_steps + 1 entries."""
    steps = min(num_steps, total)
    return [int(t) for t in np.round(np.linspace(total, 0, steps + 1))]


def clean_estimate(x_t: Tensor, eps: Tensor, alpha_bar: float, limit: float) -> Tensor:
    """x_0 from x_t and the predicted noise (eq. 2 solved for x_0), held inside the range of the training latents.

    Near t = T the division by sqrt(alpha_bar) blows up any error of eps; the limit keeps the step harmless.
    """
    clean = (x_t - (1 - alpha_bar) ** 0.5 * eps) / max(alpha_bar, 1e-12) ** 0.5
    limited: Tensor = clean.clamp(-limit, limit)
    return limited


class DdpmSampler(Section):
    """Ancestral sampling (Ho et al. 2020, alg. 2) on respaced times: the paper's 250 of 1,000 steps."""

    kind: Literal["ddpm"] = "ddpm"
    steps: int = Field(250, ge=1)

    def sample(self, denoise: Denoise, x: Tensor, diffusion: Diffusion, draw_noise: DrawNoise, limit: float) -> Tensor:
        """x: noise (I, C, h, w). Each step draws fresh noise but the last. Returns x_0."""
        times = respaced(self.steps, diffusion.num_steps)
        for t, t_next in pairwise(times):
            now, after = float(diffusion.alpha_bar[t]), float(diffusion.alpha_bar[t_next])
            clean = clean_estimate(x, denoise(x, t), now, limit)
            if t_next == 0:
                return clean
            alpha = now / after
            # Mean and variance of q(x_next | x_t, x_0), Ho et al. 2020, eq. 7, for the respaced step.
            mean = after**0.5 * (1 - alpha) / (1 - now) * clean + alpha**0.5 * (1 - after) / (1 - now) * x
            x = mean + ((1 - after) / (1 - now) * (1 - alpha)) ** 0.5 * draw_noise()
        return x


class DdimSampler(Section):
    """Deterministic DDIM (Song et al. 2021, eq. 12 with sigma 0): good from about 25 steps."""

    kind: Literal["ddim"] = "ddim"
    steps: int = Field(25, ge=1)

    def sample(self, denoise: Denoise, x: Tensor, diffusion: Diffusion, draw_noise: DrawNoise, limit: float) -> Tensor:
        """x: noise (I, C, h, w). Draws nothing. Returns x_0."""
        del draw_noise
        times = respaced(self.steps, diffusion.num_steps)
        for t, t_next in pairwise(times):
            now, after = float(diffusion.alpha_bar[t]), float(diffusion.alpha_bar[t_next])
            clean = clean_estimate(x, denoise(x, t), now, limit)
            if t_next == 0:
                return clean
            eps = (x - now**0.5 * clean) / (1 - now) ** 0.5
            x = after**0.5 * clean + (1 - after) ** 0.5 * eps
        return x


Sampler = Annotated[DdpmSampler | DdimSampler, Field(discriminator="kind")]
