"""Our samplers against diffusers' schedulers: the same first noise, the same outputs of the model, the same steps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from stages.diffusion.process import Diffusion
from stages.diffusion.samplers import DdimSampler, DdpmSampler, DpmSolverSampler, HeunSampler, UnipcSampler, sample
from stages.diffusion.schedules import CosineSchedule, FlowSchedule
from stages.diffusion.targets import FlowTarget, NoiseTarget

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers, not ours
COSINE, FLOW = Diffusion(CosineSchedule(), NoiseTarget()), Diffusion(FlowSchedule(), FlowTarget())


def noise() -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def output(x: torch.Tensor, t: int) -> torch.Tensor:
    """A model: any smooth function, near the noise where x is noise, so that x_0 stays in range."""
    share = t / 1000
    return share * x + (1 - share) * torch.sin(2 * x) * 0.3


def ours(sampler: Any, diffusion: Diffusion, draw: Any = None) -> torch.Tensor:
    return sample(sampler, lambda x, t: diffusion.to_x0(output(x, t), x, t), noise(), diffusion, draw or noise, 1e9)


def theirs(scheduler: Any, steps: int, timesteps: list[int], **options: Any) -> torch.Tensor:
    """timesteps: ours, which the model is called with; theirs count from 0 to 999, ours from 1 to 1000."""
    scheduler.set_timesteps(steps)
    x = noise()
    for t, own in zip(timesteps, scheduler.timesteps, strict=True):
        x = scheduler.step(output(x, t), own, x, **options).prev_sample
    return x


def vp(kind: Any, **options: Any) -> Any:
    """A scheduler with the betas of our cosine schedule. They keep float32; hence the tolerances below."""
    alpha_bar = CosineSchedule().alpha_bar()
    return kind(trained_betas=1 - alpha_bar[1:] / alpha_bar[:-1], timestep_spacing="trailing", **options)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    assert expected.std() > 0.1
    return float((found - expected).abs().max()) < tolerance * float(expected.abs().max())


@pytest.mark.parametrize("steps", [10, 25, 50])
def test_ddim(steps: int) -> None:
    scheduler = vp(diffusers.DDIMScheduler, clip_sample=False)
    assert close(
        ours(DdimSampler(steps=steps), COSINE),
        theirs(scheduler, steps, COSINE.sampling_timesteps(steps, 16)[:-1]),
        1e-4,
    )


@pytest.mark.parametrize("steps", [10, 50, 250])
def test_ddpm_with_the_same_draws(steps: int) -> None:
    """Mean and variance of every step. Theirs takes its draws from the generator at every step but the last."""
    mine, other = (torch.Generator().manual_seed(4) for _ in range(2))

    def draw() -> torch.Tensor:
        return torch.randn(2, 3, 4, 4, generator=mine, dtype=torch.float64)

    scheduler = vp(diffusers.DDPMScheduler, clip_sample=False)
    expected = theirs(scheduler, steps, COSINE.sampling_timesteps(steps, 16)[:-1], generator=other)
    assert close(ours(DdpmSampler(steps=steps), COSINE, draw), expected, 1e-3)


@pytest.mark.parametrize("steps", [8, 20])
def test_dpm_solver(steps: int) -> None:
    scheduler = vp(diffusers.DPMSolverMultistepScheduler, final_sigmas_type="zero")
    expected = theirs(scheduler, steps, COSINE.sampling_timesteps(steps, 16)[:-1])
    assert close(ours(DpmSolverSampler(steps=steps), COSINE), expected, 1e-3)


@pytest.mark.parametrize("steps", [8, 20])
def test_unipc_on_our_timesteps(steps: int) -> None:
    scheduler = vp(diffusers.UniPCMultistepScheduler, final_sigmas_type="zero")
    expected = theirs(scheduler, steps, COSINE.sampling_timesteps(steps, 16)[:-1])
    assert close(ours(UnipcSampler(steps=steps), COSINE), expected, 1e-3)


@pytest.mark.parametrize("steps", [10, 25])
def test_euler_on_flow(steps: int) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    sigmas = np.linspace(1, 0, steps + 1)[:-1]
    scheduler.set_timesteps(sigmas=sigmas.tolist())
    x = noise()
    for t, own in zip(FLOW.sampling_timesteps(steps, 16)[:-1], scheduler.timesteps, strict=True):
        x = scheduler.step(output(x, t), own, x).prev_sample
    assert close(ours(DdimSampler(kind="euler", steps=steps), FLOW), x, 1e-5)


def test_heun_on_flow() -> None:
    """Their timesteps end at t = 1 of 1000, ours at 0: compared up to the last of ours, and from there by one step of Euler."""
    steps = 10
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(steps)
    timesteps = FLOW.sampling_timesteps(steps, 16)
    sigmas = torch.tensor([t / 1000 for t in timesteps], dtype=torch.float64)
    scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    scheduler.set_begin_index(0)
    calls = [timesteps[0], *(t for t in timesteps[1:-1] for _ in range(2))]
    scheduler.timesteps = torch.tensor(calls, dtype=torch.float64)
    x = noise()
    for t in calls:
        x = scheduler.step(output(x, t), torch.tensor(float(t)), x).prev_sample
    assert len(calls) == 2 * steps - 1
    assert close(ours(HeunSampler(steps=steps), FLOW), x, 1e-5)


def test_the_timesteps_compared_cover_the_whole_schedule() -> None:
    assert all(a - b == 40 for a, b in pairwise(COSINE.sampling_timesteps(25, 16)))
