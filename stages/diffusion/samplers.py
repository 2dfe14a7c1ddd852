"""Samplers: from noise to clean latents, for x_t = alpha x_0 + sigma eps.

`sample` is the plain use of one. A sampler itself is a generator, `denoising_steps`: it yields (x_t, t) and is sent the
estimate of x_0. So images of different sizes, or started at different times, advance step by step, and one pass of the model
serves all of them (generation/denoising.py).

A sampler is a frozen pydantic model with a `kind`; a new one is a class here and a name in the union. It never sees the model
class. Each estimate of x_0 is clamped to `limit`, the range of the training latents: near t = T the estimate from a noise
prediction is its error times a large factor. torch is not imported at the top, so that recipes load without it.
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

DenoisingSteps = Generator[tuple["Tensor", int], "Tensor", "Tensor"]
DrawNoise = Callable[[], "Tensor"]


def sample(
    sampler: Sampler,
    denoise: Callable[[Tensor, int], Tensor],
    x: Tensor,
    diffusion: Diffusion,
    draw_noise: DrawNoise | None = None,
    limit: float = math.inf,
    strength: float = 1.0,
) -> Tensor:
    """The clean latents (I, C, h, w) that `sampler` makes of `x`: one batch from the first step to the last.

    Args:
        sampler: the rule of a step, and how many there are.
        denoise: the model: x_t (I, C, h, w) and t to the estimate of x_0, (I, C, h, w).
        x: standard normal noise (I, C, h, w); with a strength below 1 x_t at t = strength * T.
        diffusion: the noise schedule.
        draw_noise: fresh standard normal noise of the shape of x, for a sampler that adds some at its steps (ddpm).
        limit: largest absolute value of an estimate of x_0.
        strength: share of the noise levels that the sampler goes through, from 0 (returns x) to 1.
    """
    return run_sampler(sampler.denoising_steps(x, diffusion, draw_noise or _no_noise, limit, strength), denoise)


def run_sampler(steps: DenoisingSteps, denoise: Callable[[Tensor, int], Tensor]) -> Tensor:
    """What a sampler's steps return, (I, C, h, w), with `denoise(x_t, t)` as the estimate of x_0 of each."""
    try:
        x, t = next(steps)
        while True:
            x, t = steps.send(denoise(x, t))
    except StopIteration as end:
        x0: Tensor = end.value
        return x0


def _no_noise() -> Tensor:
    raise AssertionError("this sampler adds noise at its steps: pass draw_noise")


@dataclass(frozen=True)
class _Step:
    """From time t to t_next, with alpha and sigma at both."""

    t: int
    t_next: int
    alpha: float
    sigma: float
    alpha_next: float
    sigma_next: float


def _step_levels(num_steps: int, x: Tensor, diffusion: Diffusion, strength: float) -> Iterator[_Step]:
    timesteps = diffusion.sampling_timesteps(num_steps, x.shape[-2] * x.shape[-1], strength)
    for t, t_next in pairwise(timesteps):
        alpha, sigma = float(diffusion.alpha[t]), float(diffusion.sigma[t])
        yield _Step(t, t_next, alpha, sigma, float(diffusion.alpha[t_next]), float(diffusion.sigma[t_next]))


class DdpmSampler(Section):
    """Ancestral sampling (Ho et al. 2020, alg. 2) on respaced times: the paper's 250 of 1,000 steps."""

    kind: Literal["ddpm"] = "ddpm"
    """Ancestral sampling, with fresh noise at every step (the paper's sampler)."""
    steps: int = Field(250, ge=1)
    """Denoising steps (paper, section 4.1: 250 of the 1000 trained ones). At most the steps of the schedule are taken."""

    def denoising_steps(
        self, x: Tensor, diffusion: Diffusion, draw_noise: DrawNoise, limit: float, strength: float = 1.0
    ) -> DenoisingSteps:
        """Yields (x_t, t), is sent the estimate of x_0, and returns x_0, all (I, C, h, w). Arguments: see `sample`."""
        for step in _step_levels(self.steps, x, diffusion, strength):
            x0 = (yield x, step.t).clamp(-limit, limit)
            if step.t_next == 0:
                return x0
            # Mean and variance of q(x_next | x_t, x_0): Ho et al. 2020, eq. 7, for any alpha and sigma, and respaced steps.
            ratio = step.alpha / step.alpha_next
            new_variance = step.sigma**2 - (ratio * step.sigma_next) ** 2
            mean = (ratio * step.sigma_next**2 * x + step.alpha_next * new_variance * x0) / step.sigma**2
            x = mean + (new_variance**0.5 * step.sigma_next / step.sigma) * draw_noise()
        return x


class DdimSampler(Section):
    """Deterministic DDIM (Song et al. 2021, eq. 12 with sigma 0): good from about 25 steps.

    With the schedule `flow` it is Euler's method along rectified flow's velocity, so it has that name as well.
    """

    kind: Literal["ddim", "euler"] = "ddim"
    """DDIM without noise of its own; "euler" is another name for the same, usual with rectified flow."""
    steps: int = Field(25, ge=1)
    """Denoising steps, one call of the model each. At most the steps of the schedule are taken."""

    def denoising_steps(
        self, x: Tensor, diffusion: Diffusion, draw_noise: DrawNoise, limit: float, strength: float = 1.0
    ) -> DenoisingSteps:
        """See `DdpmSampler.denoising_steps`; adds no noise."""
        del draw_noise
        for step in _step_levels(self.steps, x, diffusion, strength):
            x0 = (yield x, step.t).clamp(-limit, limit)
            x = step.alpha_next * x0 + (step.sigma_next / step.sigma) * (x - step.alpha * x0)
        return x


class HeunSampler(Section):
    """Heun's method: an Euler step, then the mean of the slopes at both ends. Two calls of the model a step, one in the last.

    The path is dx = x_0 d(alpha) + eps d(sigma), which is rectified flow's velocity with the schedule `flow`.
    """

    kind: Literal["heun"] = "heun"
    """Heun's method of second order."""
    steps: int = Field(12, ge=1)
    """Denoising steps, two calls of the model each but the last. At most the steps of the schedule are taken."""

    def denoising_steps(
        self, x: Tensor, diffusion: Diffusion, draw_noise: DrawNoise, limit: float, strength: float = 1.0
    ) -> DenoisingSteps:
        """See `DdpmSampler.denoising_steps`; adds no noise."""
        del draw_noise
        for step in _step_levels(self.steps, x, diffusion, strength):
            x0 = (yield x, step.t).clamp(-limit, limit)
            if step.t_next == 0:
                return x0
            eps = (x - step.alpha * x0) / step.sigma
            x_next = step.alpha_next * x0 + step.sigma_next * eps
            x0_next = (yield x_next, step.t_next).clamp(-limit, limit)
            eps_next = (x_next - step.alpha_next * x0_next) / step.sigma_next
            x = (
                x
                + (step.alpha_next - step.alpha) / 2 * (x0 + x0_next)
                + (step.sigma_next - step.sigma) / 2 * (eps + eps_next)
            )
        return x


class DpmSolverSampler(Section):
    """DPM-Solver++ (2M) (Lu et al. 2022, alg. 2): second order with one call a step, good from about 10 steps."""

    kind: Literal["dpm++"] = "dpm++"
    """DPM-Solver++ (2M) of second order."""
    steps: int = Field(15, ge=1)
    """Denoising steps, one call of the model each. At most the steps of the schedule are taken."""

    def denoising_steps(
        self, x: Tensor, diffusion: Diffusion, draw_noise: DrawNoise, limit: float, strength: float = 1.0
    ) -> DenoisingSteps:
        """See `DdpmSampler.denoising_steps`; adds no noise."""
        del draw_noise
        x0_before: Tensor | None = None  # the estimate of the step before
        h_before = math.inf
        for step in _step_levels(self.steps, x, diffusion, strength):
            x0 = (yield x, step.t).clamp(-limit, limit)
            if step.t_next == 0:
                return x0
            # exp(-h), h the step in log(alpha / sigma); at flow's t = T, where alpha is 0, h is infinite and the rule is DDIM's.
            decay = step.alpha * step.sigma_next / (step.alpha_next * step.sigma)
            h = -math.log(decay) if decay > 0 else math.inf
            extrapolated = (
                x0 if x0_before is None or math.isinf(h_before) else x0 + h / (2 * h_before) * (x0 - x0_before)
            )
            x = (step.sigma_next / step.sigma) * x + step.alpha_next * (1 - decay) * extrapolated
            x0_before, h_before = x0, h
        return x


class UnipcSampler(Section):
    """UniPC of second order (Zhao et al. 2023) by diffusers: DPM-Solver++ with each step corrected by the next call."""

    kind: Literal["unipc"] = "unipc"
    """UniPC of second order, as diffusers computes it."""
    steps: int = Field(15, ge=1)
    """Denoising steps, one call of the model each. At most the steps of the schedule are taken."""

    def denoising_steps(
        self, x: Tensor, diffusion: Diffusion, draw_noise: DrawNoise, limit: float, strength: float = 1.0
    ) -> DenoisingSteps:
        """See `DdpmSampler.denoising_steps`; adds no noise."""
        from stages.diffusion.unipc import Unipc

        del draw_noise
        steps = list(_step_levels(self.steps, x, diffusion, strength))
        if not steps:
            return x
        solver = Unipc([step.sigma / (step.alpha + step.sigma) for step in steps])
        for step in steps:
            x0 = (yield x, step.t).clamp(-limit, limit)
            # the solver expects alpha + sigma = 1; its rule does not change when x is scaled to that
            x = solver.step(x0, x / (step.alpha + step.sigma)) * (step.alpha_next + step.sigma_next)
        return x


Sampler = Annotated[
    DdpmSampler | DdimSampler | HeunSampler | DpmSolverSampler | UnipcSampler, Field(discriminator="kind")
]
