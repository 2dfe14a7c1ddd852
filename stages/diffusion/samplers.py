"""Samplers: from noise to a clean latent, for x_t = a x_0 + b eps. A walk yields (x_t, t) and is sent the estimate of x_0.

Generators and not loops around a function, so that the walks of images of other sizes, or begun at another time, can be
asked in turn and answered by one pass of the model. A sampler is a frozen pydantic model with a `kind`; a new one is a
class here and a name in the union. It never sees the model class. Each estimate of x_0 is held inside `limit`, the range of
the training latents: near t = T that of a noise prediction is its error made huge. All begin at t = strength * T; strength 1
begins at noise. torch is not imported at the top, so that recipes load without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal

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


@dataclass(frozen=True)
class _Step:
    """From time t to t_next, with signal and noise levels at both."""

    t: int
    t_next: int
    a: float
    b: float
    a_next: float
    b_next: float


def _steps(num_steps: int, x: Tensor, diffusion: Diffusion, strength: float) -> Iterator[_Step]:
    times = diffusion.respaced(num_steps, x.shape[-2] * x.shape[-1], strength)
    for t, t_next in pairwise(times):
        a, b = float(diffusion.signal[t]), float(diffusion.noise[t])
        yield _Step(t, t_next, a, b, float(diffusion.signal[t_next]), float(diffusion.noise[t_next]))


class DdpmSampler(Section):
    """Ancestral sampling (Ho et al. 2020, alg. 2) on respaced times: the paper's 250 of 1,000 steps."""

    kind: Literal["ddpm"] = "ddpm"
    """Ancestral sampling, with fresh noise at every step (the paper's sampler)."""
    steps: int = Field(250, ge=1)
    """Denoising steps (paper, section 4.1: 250 of the 1000 trained ones). At most the steps of the schedule are taken."""

    def walk(self, x: Tensor, diffusion: Diffusion, draw_noise: DrawNoise, limit: float, strength: float = 1.0) -> Walk:
        """x: noise (I, C, h, w), or x_t at t = strength * T. Each step draws fresh noise but the last. Returns x_0."""
        for step in _steps(self.steps, x, diffusion, strength):
            clean = (yield x, step.t).clamp(-limit, limit)
            if step.t_next == 0:
                return clean
            # Mean and variance of q(x_next | x_t, x_0): Ho et al. 2020, eq. 7, for any a and b and a respaced step.
            ratio = step.a / step.a_next
            fresh = step.b**2 - (ratio * step.b_next) ** 2
            mean = (ratio * step.b_next**2 * x + step.a_next * fresh * clean) / step.b**2
            x = mean + (fresh**0.5 * step.b_next / step.b) * draw_noise()
        return x


class DdimSampler(Section):
    """Deterministic DDIM (Song et al. 2021, eq. 12 with sigma 0): good from about 25 steps.

    With the schedule `flow` it is Euler's method along rectified flow's velocity, so it has that name too.
    """

    kind: Literal["ddim", "euler"] = "ddim"
    """DDIM without noise of its own; "euler" is another name for the same, usual with rectified flow."""
    steps: int = Field(25, ge=1)
    """Denoising steps, one call of the model each. At most the steps of the schedule are taken."""

    def walk(self, x: Tensor, diffusion: Diffusion, draw_noise: DrawNoise, limit: float, strength: float = 1.0) -> Walk:
        """As of `DdpmSampler`; draws nothing."""
        del draw_noise
        for step in _steps(self.steps, x, diffusion, strength):
            clean = (yield x, step.t).clamp(-limit, limit)
            x = step.a_next * clean + (step.b_next / step.b) * (x - step.a * clean)
        return x


class HeunSampler(Section):
    """Heun's method: an Euler step, then the mean of the slopes at both ends. Two calls a step, one in the last.

    The path is dx = x_0 da + eps db, which is rectified flow's velocity with the schedule `flow`.
    """

    kind: Literal["heun"] = "heun"
    """Heun's method of second order."""
    steps: int = Field(12, ge=1)
    """Denoising steps, two calls of the model each but the last. At most the steps of the schedule are taken."""

    def walk(self, x: Tensor, diffusion: Diffusion, draw_noise: DrawNoise, limit: float, strength: float = 1.0) -> Walk:
        """As of `DdpmSampler`; draws nothing."""
        del draw_noise
        for step in _steps(self.steps, x, diffusion, strength):
            clean = (yield x, step.t).clamp(-limit, limit)
            if step.t_next == 0:
                return clean
            noise = (x - step.a * clean) / step.b
            ahead = step.a_next * clean + step.b_next * noise
            clean_ahead = (yield ahead, step.t_next).clamp(-limit, limit)
            noise_ahead = (ahead - step.a_next * clean_ahead) / step.b_next
            x = (
                x
                + (step.a_next - step.a) / 2 * (clean + clean_ahead)
                + (step.b_next - step.b) / 2 * (noise + noise_ahead)
            )
        return x


class DpmSolverSampler(Section):
    """DPM-Solver++ (2M) (Lu et al. 2022, alg. 2): second order with one call a step, good from about 10 steps."""

    kind: Literal["dpm++"] = "dpm++"
    """DPM-Solver++ (2M) of second order."""
    steps: int = Field(15, ge=1)
    """Denoising steps, one call of the model each. At most the steps of the schedule are taken."""

    def walk(self, x: Tensor, diffusion: Diffusion, draw_noise: DrawNoise, limit: float, strength: float = 1.0) -> Walk:
        """As of `DdpmSampler`; draws nothing."""
        del draw_noise
        before: Tensor | None = None  # the estimate of the step before
        h_before = math.inf
        for step in _steps(self.steps, x, diffusion, strength):
            clean = (yield x, step.t).clamp(-limit, limit)
            if step.t_next == 0:
                return clean
            # exp(-h), h the step in log(a / b); at flow's t = T, where a is 0, h has no end and the rule is DDIM's.
            decay = step.a * step.b_next / (step.a_next * step.b)
            h = -math.log(decay) if decay > 0 else math.inf
            ahead = clean if before is None or math.isinf(h_before) else clean + h / (2 * h_before) * (clean - before)
            x = (step.b_next / step.b) * x + step.a_next * (1 - decay) * ahead
            before, h_before = clean, h
        return x


class UnipcSampler(Section):
    """UniPC of second order (Zhao et al. 2023) by diffusers: DPM-Solver++ whose every step is corrected by the next call."""

    kind: Literal["unipc"] = "unipc"
    """UniPC of second order, as diffusers computes it."""
    steps: int = Field(15, ge=1)
    """Denoising steps, one call of the model each. At most the steps of the schedule are taken."""

    def walk(self, x: Tensor, diffusion: Diffusion, draw_noise: DrawNoise, limit: float, strength: float = 1.0) -> Walk:
        """As of `DdpmSampler`; draws nothing."""
        from stages.diffusion.unipc import Unipc

        del draw_noise
        steps = list(_steps(self.steps, x, diffusion, strength))
        if not steps:
            return x
        solver = Unipc([step.b / (step.a + step.b) for step in steps])
        for step in steps:
            clean = (yield x, step.t).clamp(-limit, limit)
            # the solver works where a + b = 1; its rule does not change when x is scaled to that
            x = solver.step(clean, x / (step.a + step.b)) * (step.a_next + step.b_next)
        return x


Sampler = Annotated[
    DdpmSampler | DdimSampler | HeunSampler | DpmSolverSampler | UnipcSampler, Field(discriminator="kind")
]
