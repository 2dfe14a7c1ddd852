"""Laws of the samplers and of their timesteps. What they share runs over the union, so that a new sampler is tested as well."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch

from stages.diffusion.process import Diffusion
from stages.diffusion.samplers import (
    DdimSampler,
    DdpmSampler,
    DpmSolverSampler,
    HeunSampler,
    Sampler,
    UnipcSampler,
    sample,
)
from stages.diffusion.schedules import CosineSchedule, FlowSchedule, Schedule
from stages.diffusion.targets import FlowTarget
from stages.diffusion.timesteps import LogitNormalTimesteps, shifted

KINDS: tuple[Any, ...] = get_args(get_args(Sampler)[0])
SAMPLERS: list[Any] = [*(kind() for kind in KINDS), DdpmSampler(steps=1000), *(kind(steps=50) for kind in KINDS)]
SCHEDULES: list[Schedule] = [CosineSchedule(), FlowSchedule()]
samplers = pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.kind)


def gaussian(diffusion: Diffusion, mean: float, std: float) -> Any:
    """The exact mean of x_0 given x_t for data N(mean, std^2)."""

    def denoise(x: torch.Tensor, t: int) -> torch.Tensor:
        alpha, sigma = float(diffusion.alpha[t]), float(diffusion.sigma[t])
        return mean + alpha * std**2 / ((alpha * std) ** 2 + sigma**2) * (x - alpha * mean)

    return denoise


@samplers
def test_sample_is_every_step_with_its_estimate_sent_to_it(sampler: Any) -> None:
    """`sample` against the loop written out: each (x_t, t) that is yielded gets the model's estimate of x_0 for it."""
    diffusion = Diffusion(CosineSchedule())
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def denoise(x_t: torch.Tensor, t: int) -> torch.Tensor:
        return torch.sin(2 * x_t) + t / 1000

    def noise_from(seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        return lambda: torch.randn(x.shape, generator=generator)

    steps, yielded = sampler.denoising_steps(x, diffusion, noise_from(1), 0.7, 0.5), []
    estimate = None
    while True:
        try:
            x_t, t = steps.send(estimate)
        except StopIteration as end:
            expected = end.value
            break
        yielded.append(t)
        estimate = denoise(x_t, t)
    found = sample(sampler, denoise, x, diffusion, noise_from(1), limit=0.7, strength=0.5)
    assert torch.equal(found, expected)
    assert yielded[0] == 500
    assert yielded == sorted(yielded, reverse=True)
    assert found.abs().max() <= 0.7 + 1e-6


@schedules
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_sample_needs_a_source_of_noise_for_ddpm_alone(kind: Any, schedule: Schedule) -> None:
    """Without `draw_noise` a sampler that adds noise refuses to run; for the others it is not needed, nor is a limit."""
    truth, x = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    if kind is DdpmSampler:
        with pytest.raises(AssertionError, match="pass draw_noise"):
            sample(kind(steps=4), lambda *_: truth, x, Diffusion(schedule))
    else:
        assert torch.allclose(sample(kind(steps=4), lambda *_: 9 * truth, x, Diffusion(schedule)), 9 * truth, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 7, 25, 250, 1000, 5000])
def test_sampling_timesteps_fall_evenly_from_the_end_to_zero(steps: int) -> None:
    timesteps = Diffusion(CosineSchedule()).sampling_timesteps(steps, 64)
    steps = min(steps, 1000)
    assert timesteps == pytest.approx([1000 * (steps - i) / steps for i in range(steps + 1)], abs=0.5)
    assert (timesteps[0], timesteps[-1], len(set(timesteps))) == (1000, 0, steps + 1)


def test_sampling_timesteps_shift_with_the_image_size_as_in_training() -> None:
    """sigma / alpha grows sqrt(pixels / base) times; without a base, or at it, nothing moves."""
    moving = Diffusion(FlowSchedule(), timestep_distribution=LogitNormalTimesteps(base_pixels=64))
    plain = Diffusion(FlowSchedule(), timestep_distribution=LogitNormalTimesteps())
    assert moving.sampling_timesteps(20, 64) == plain.sampling_timesteps(20, 64) == plain.sampling_timesteps(20, 1024)
    for t, moved in zip(plain.sampling_timesteps(20, 1)[1:-1], moving.sampling_timesteps(20, 1024)[1:-1], strict=True):
        assert moved / (1000 - moved) == pytest.approx(4 * t / (1000 - t), rel=0.03)
    assert float(shifted(torch.tensor(0.5), 4.0)) == pytest.approx(0.8)
    crowded = moving.sampling_timesteps(1000, 64 * 400)
    assert (crowded[0], crowded[-1]) == (1000, 0)
    assert all(a > b for a, b in pairwise(crowded))
    seen: list[int] = []
    x = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))

    def denoise(x: torch.Tensor, t: int) -> torch.Tensor:
        seen.append(t)
        return x

    sample(DdimSampler(steps=20), denoise, x, moving, lambda: x, 9.0)
    assert seen == moving.sampling_timesteps(20, 1024)[:-1]


@samplers
def test_a_strength_below_one_takes_that_fraction_of_the_steps(sampler: Any) -> None:
    """It starts at strength * T with x as it is; strength 0 returns x."""
    diffusion = Diffusion(CosineSchedule())
    x = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    seen: list[tuple[int, torch.Tensor]] = []

    def denoise(x: torch.Tensor, t: int) -> torch.Tensor:
        seen.append((t, x))
        return torch.zeros_like(x)

    sample(sampler, denoise, x, diffusion, lambda: x, 9.0, strength=0.31)
    assert seen[0][0] == 310
    assert torch.allclose(seen[0][1], x)
    assert len({t for t, _ in seen}) == math.ceil(0.31 * sampler.steps)
    assert torch.equal(sample(sampler, denoise, x, diffusion, lambda: x, 9.0, strength=0.0), x)


@schedules
@samplers
def test_a_perfect_denoiser_of_one_image_returns_it(sampler: Any, schedule: Schedule) -> None:
    diffusion = Diffusion(schedule)
    generator = torch.Generator().manual_seed(0)
    truth, noise = torch.randn(2, 2, 1, 4, 4, generator=generator).unbind()
    result = sample(
        sampler, lambda _, __: truth, noise, diffusion, lambda: torch.randn(truth.shape, generator=generator), 10.0
    )
    assert torch.allclose(result, truth, atol=1e-6)


@schedules
@samplers
def test_the_exact_denoiser_of_a_gaussian_gives_that_gaussian(sampler: Any, schedule: Schedule) -> None:
    """Data N(1, 0.5^2) has a closed-form mean of x_0 given x_t; samples must have that mean and standard deviation."""
    diffusion = Diffusion(schedule)
    mean, std = 1.0, 0.5
    generator = torch.Generator().manual_seed(0)
    shape = (4000, 1, 2, 2)
    noise = torch.randn(shape, generator=generator)
    result = sample(
        sampler,
        gaussian(diffusion, mean, std),
        noise,
        diffusion,
        lambda: torch.randn(shape, generator=generator),
        50.0,
    )
    tolerance = 0.1 if sampler.steps < 100 else 0.03
    assert result.mean().item() == pytest.approx(mean, abs=tolerance / 2)
    assert result.std().item() == pytest.approx(std, abs=tolerance * std * 2)
    assert math.isfinite(result.abs().max().item())


def error(sampler: Any, diffusion: Diffusion) -> float:
    """Largest distance from where the path of each noise ends. Along it a Gaussian's x_t keeps its distance from the mean in
    standard deviations, sqrt(alpha^2 std^2 + sigma^2) each."""
    mean, std = 0.4, 0.6
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[None, None, None]
    alpha, sigma = float(diffusion.alpha[-1]), float(diffusion.sigma[-1])
    truth = mean + std * (x - alpha * mean) / math.hypot(alpha * std, sigma)
    found = sample(sampler, gaussian(diffusion, mean, std), x, diffusion, lambda: x, 50.0)
    return float((found - truth).abs().max())


@pytest.mark.parametrize("schedule", [CosineSchedule(steps=100_000, offset=0), FlowSchedule(steps=100_000)], ids=str)
@pytest.mark.parametrize(
    "kind", [DdimSampler, HeunSampler, DpmSolverSampler, UnipcSampler], ids=lambda kind: kind.__name__
)
def test_the_error_of_a_path_falls_with_the_order_of_its_method(kind: Any, schedule: Schedule) -> None:
    """Four times the steps leave a quarter of the error of a first-order method and a sixteenth of a second-order one's. Fine
    times, so that rounding them does not count; no offset of the cosine, which makes the last step, Euler's for all of them,
    one of first order below t = 8."""
    diffusion = Diffusion(schedule)
    errors = [error(kind(steps=steps), diffusion) for steps in (20, 80, 320)]
    order = math.log2(errors[1] / errors[2]) / 2
    assert order == pytest.approx(1, abs=0.2) if kind is DdimSampler else order > 1.6, (order, errors)
    assert errors[0] < 0.1


@schedules
def test_second_order_is_nearer_with_as_many_calls(schedule: Schedule) -> None:
    diffusion = Diffusion(schedule)
    first = error(DdimSampler(steps=24), diffusion)
    for better in (HeunSampler(steps=12), DpmSolverSampler(steps=24), UnipcSampler(steps=24)):
        assert error(better, diffusion) < first / 2, better


@schedules
def test_every_ancestral_step_keeps_the_noise_level_of_its_timestep(schedule: Schedule) -> None:
    """With x_0 known, x_t is alpha x_0 + sigma eps at each of a few large steps, not only at the end."""
    diffusion = Diffusion(schedule)
    generator = torch.Generator().manual_seed(0)
    truth = torch.full((4000, 1, 2, 2), 0.7)
    seen = []

    def denoise(x: torch.Tensor, t: int) -> torch.Tensor:
        seen.append(t)
        eps = (x - diffusion.alpha[t] * truth) / diffusion.sigma[t]
        assert eps.mean().item() == pytest.approx(0, abs=0.03)
        assert eps.std().item() == pytest.approx(1, abs=0.03)
        return truth

    def draw() -> torch.Tensor:
        return torch.randn(truth.shape, generator=generator)

    sample(
        DdpmSampler(steps=4), denoise, draw() * diffusion.sigma[-1] + diffusion.alpha[-1] * truth, diffusion, draw, 9.0
    )
    assert seen == [1000, 750, 500, 250]


@samplers
def test_estimates_are_clamped_to_the_limit(sampler: Any) -> None:
    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    result = sample(
        sampler, lambda x, _: torch.full_like(x, 1e6), noise, Diffusion(CosineSchedule()), lambda: noise, limit=3.0
    )
    assert torch.allclose(result, torch.full_like(noise, 3.0), atol=1e-6)


@samplers
@schedules
def test_every_estimate_counts_only_up_to_the_limit(sampler: Any, schedule: Schedule) -> None:
    """Estimates far beyond the limit move a sampler as those at the limit do, at each of its calls of the model."""
    diffusion = Diffusion(schedule)
    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def wild(x: torch.Tensor, t: int) -> torch.Tensor:
        return torch.sin(2 * x + t) * 4

    def tame(x: torch.Tensor, t: int) -> torch.Tensor:
        return wild(x, t).clamp(-0.5, 0.5)

    found = sample(sampler, wild, noise, diffusion, lambda: noise, limit=0.5)
    assert torch.equal(found, sample(sampler, tame, noise, diffusion, lambda: noise))
    assert not torch.equal(found, sample(sampler, wild, noise, diffusion, lambda: noise))


@samplers
def test_images_of_a_batch_do_not_touch(sampler: Any) -> None:
    diffusion = Diffusion(CosineSchedule())
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def denoise(x: torch.Tensor, t: int) -> torch.Tensor:
        return torch.sin(2 * x) + t / 1000

    together = sample(sampler, denoise, x, diffusion, lambda: x, 5.0)
    assert torch.allclose(sample(sampler, denoise, x[1:2], diffusion, lambda: x[1:2], 5.0), together[1:2], atol=1e-9)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["ddim", "heun"])
def test_along_straight_lines_they_are_the_textbook_methods(kind: str) -> None:
    diffusion = Diffusion(FlowSchedule(), FlowTarget())
    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def velocity(x: torch.Tensor, t: int) -> torch.Tensor:
        return torch.sin(3 * x) + t / 1000

    sampler = DdimSampler(steps=10) if kind == "ddim" else HeunSampler(steps=10)
    found = sample(sampler, lambda x, t: diffusion.to_x0(velocity(x, t), x, t), noise, diffusion, lambda: noise, 1e9)
    x = noise
    for t in range(1000, 0, -100):
        slope = velocity(x, t)
        if kind == "heun" and t > 100:
            slope = (slope + velocity(x - 0.1 * slope, t - 100)) / 2
        x = x - 0.1 * slope
    assert torch.allclose(found, x, atol=1e-6)


def test_euler_is_the_other_name_of_ddim() -> None:
    noise = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = [
        sample(DdimSampler(kind=kind), lambda x, _: x.sin(), noise, Diffusion(FlowSchedule()), lambda: noise, 9.0)
        for kind in ("ddim", "euler")
    ]
    assert torch.equal(*found)
