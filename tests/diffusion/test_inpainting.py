"""Laws of variations and inpainting, over every sampler and both schedules."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from stages.diffusion.inpainting import cells_to_change, edit_steps, pasted
from stages.diffusion.process import Diffusion
from stages.diffusion.samplers import DdpmSampler, Sampler, run_sampler, sample
from stages.diffusion.schedules import CosineSchedule, FlowSchedule, Schedule

KINDS: tuple[Any, ...] = get_args(get_args(Sampler)[0])
samplers = pytest.mark.parametrize("sampler", [kind(steps=8) for kind in KINDS], ids=lambda sampler: sampler.kind)
schedules = pytest.mark.parametrize("schedule", [CosineSchedule(), FlowSchedule()], ids=lambda schedule: schedule.kind)
SHAPE = (16, 3, 8, 8)
X0, EPS = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)).unbind()
HALF = torch.zeros(8, 8, dtype=torch.bool)
HALF[:, :4] = True


def sampled(
    sampler: Any, diffusion: Diffusion, change: torch.Tensor | None, strength: float, denoise: Any, limit: float = 9.0
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    steps = edit_steps(
        sampler, X0, change, strength, EPS, diffusion, lambda: torch.randn(SHAPE, generator=generator), limit
    )
    return run_sampler(steps, denoise)


def model(x: torch.Tensor, t: int) -> torch.Tensor:
    return torch.sin(2 * x) + t / 1000


@schedules
@samplers
def test_full_strength_and_change_everywhere_equals_plain_sampling_bit_for_bit(
    sampler: Any, schedule: Schedule
) -> None:
    diffusion = Diffusion(schedule)
    generator = torch.Generator().manual_seed(1)
    plain = sample(sampler, model, EPS, diffusion, lambda: torch.randn(SHAPE, generator=generator), 9.0)
    assert torch.equal(sampled(sampler, diffusion, None, 1.0, model), plain)
    assert torch.equal(sampled(sampler, diffusion, torch.ones(8, 8, dtype=torch.bool), 1.0, model), plain)


@schedules
@samplers
def test_no_strength_or_no_change_returns_the_picture(sampler: Any, schedule: Schedule) -> None:
    diffusion = Diffusion(schedule)
    assert torch.equal(sampled(sampler, diffusion, None, 0.0, model), X0)
    for strength in (0.4, 1.0):
        nowhere = torch.zeros(8, 8, dtype=torch.bool)
        assert torch.equal(
            sampled(sampler, diffusion, nowhere, strength, model, limit=0.5), X0
        )  # even beyond the limit


@schedules
@samplers
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_known_part_is_at_the_noise_level_of_every_step_and_ends_as_it_is(
    sampler: Any, schedule: Schedule, strength: float
) -> None:
    diffusion = Diffusion(schedule)
    seen = []

    def denoise(x: torch.Tensor, t: int) -> torch.Tensor:
        eps = ((x - diffusion.alpha[t] * X0) / diffusion.sigma[t])[..., ~HALF]
        seen.append(t)
        if sampler.kind == "ddpm":  # other noise at each step, of the same standard deviation
            assert eps.std().item() == pytest.approx(1, abs=0.15)
            assert abs(eps.mean().item()) < 0.25
        else:
            assert torch.allclose(eps.float(), EPS[..., ~HALF], atol=0.01)
        return model(x, t)

    result = sampled(sampler, diffusion, HALF, strength, denoise)
    assert seen[0] == 1000 * strength
    assert torch.equal(result[..., ~HALF], X0[..., ~HALF])
    assert (result[..., HALF] - X0[..., HALF]).abs().mean() > 0.1


@schedules
def test_a_variation_starts_at_its_noise_level_and_differs_more_with_it(schedule: Schedule) -> None:
    diffusion = Diffusion(schedule)
    first: list[torch.Tensor] = []

    def denoise(x: torch.Tensor, t: int) -> torch.Tensor:
        first.append(x)
        alpha, sigma = diffusion.alpha[t], diffusion.sigma[t]
        return (alpha / (alpha * alpha + sigma * sigma) * x).float()  # exact for data N(0, 1)

    distances = []
    for strength in (0.1, 0.3, 0.6, 0.9):
        first.clear()
        result = sampled(DdpmSampler(steps=100), diffusion, None, strength, denoise)
        noised = diffusion.add_noise(X0, EPS, torch.full((16,), round(1000 * strength)))
        assert torch.equal(first[0], noised)
        distances.append((result - X0).square().mean().item())
    assert distances == sorted(distances)
    assert distances[-1] > 4 * distances[0]


def test_a_cell_changes_where_any_of_its_pixels_does() -> None:
    mask = np.zeros((16, 24), dtype=bool)
    mask[7, 8] = True  # the last row of the first cells, the first column of the second
    mask[8:, 16:] = True
    assert cells_to_change(mask, 8).tolist() == [[False, True, False], [False, False, True]]
    assert cells_to_change(np.ones((16, 24), dtype=bool), 8).all()
    assert not cells_to_change(np.zeros((16, 24), dtype=bool), 8).any()


def test_kept_pixels_are_the_original_ones() -> None:
    rng = np.random.default_rng(0)
    new, old = rng.integers(0, 256, (2, 16, 24, 3)).astype(np.uint8)
    mask = rng.random((16, 24)) < 0.5
    result = pasted(new, old, mask)
    assert result.dtype == np.uint8
    assert (result[mask] == new[mask]).all()
    assert (result[~mask] == old[~mask]).all()
    assert (pasted(np.stack([old, new]), old, mask) == np.stack([old, result])).all()
