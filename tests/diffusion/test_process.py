"""Laws of the forward process, its schedule and the samplers."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from stages.diffusion.guidance import guided
from stages.diffusion.process import Diffusion, image_errors
from stages.diffusion.samplers import DdimSampler, DdpmSampler, respaced
from stages.diffusion.schedules import CosineSchedule
from stages.diffusion.targets import NoiseTarget, Target, VelocityTarget
from stages.diffusion.weighting import MinSnr, Uniform

TARGETS: list[Target] = [NoiseTarget(), VelocityTarget()]
SAMPLERS = [DdpmSampler(), DdpmSampler(steps=1000), DdimSampler(), DdimSampler(steps=250)]


def test_cosine_matches_the_published_values() -> None:
    alpha_bar = CosineSchedule().alpha_bar()
    expected = {100: 0.9721, 250: 0.8470, 500: 0.4938, 700: 0.2031, 900: 0.0241, 990: 0.0002}
    for t, value in expected.items():
        assert alpha_bar[t] == pytest.approx(value, abs=6e-5)
    assert alpha_bar[0] == 1
    assert (np.diff(alpha_bar) < 0).all()


def test_beta_never_passes_its_limit() -> None:
    alpha_bar = CosineSchedule().alpha_bar()
    assert (1 - alpha_bar[1:] / alpha_bar[:-1]).max() <= 0.999 + 1e-12


def test_noise_keeps_unit_variance_and_zero_keeps_the_image() -> None:
    diffusion = Diffusion(CosineSchedule())
    clean, noise = torch.randn(2, 512, 2, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    for t in (1, 300, 700, 1000):
        noised = diffusion.add_noise(clean, noise, torch.full((512,), t))
        assert noised.var().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(diffusion.add_noise(clean, noise, torch.zeros(512, dtype=torch.long)), clean)


def test_times_cover_one_to_the_limit_of_each_image() -> None:
    diffusion = Diffusion(CosineSchedule())
    limits = torch.tensor([1000, 500] * 20_000)
    t = diffusion.draw_times(limits, torch.Generator().manual_seed(0))
    assert t.min() == 1
    assert t[0::2].max() == 1000
    assert t[1::2].max() == 500
    assert t[0::2].double().mean().item() == pytest.approx(500.5, abs=6)
    assert t[1::2].double().mean().item() == pytest.approx(250.5, abs=3)


def test_image_errors_are_means_inside_an_image() -> None:
    predicted = torch.zeros(3, 2, 4, 4)
    noise = torch.stack([torch.full((2, 4, 4), float(i)) for i in range(3)])
    assert image_errors(predicted, noise).tolist() == pytest.approx([0, 1, 4])


def test_weights_are_one_or_fall_with_the_signal() -> None:
    diffusion = Diffusion(CosineSchedule())
    t = torch.tensor([1, 100, 300, 501, 1000])
    assert diffusion.loss_weights(t, Uniform()).tolist() == [1] * 5
    weights = diffusion.loss_weights(t, MinSnr(gamma=1.0))
    snr = diffusion.alpha_bar[t] / (1 - diffusion.alpha_bar[t])
    assert torch.allclose(weights, (snr.clamp(max=1) / snr).float())
    assert weights[-2:].tolist() == [1, 1]
    assert (weights[:3].diff() > 0).all()


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("t", [1, 300, 700, 999])
def test_every_target_stands_for_its_noise_and_its_error_for_that_of_the_noise(target: Target, t: int) -> None:
    diffusion = Diffusion(CosineSchedule(), target)
    clean, noise, wrong = torch.randn(3, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    times = torch.full((4,), t)
    x_t, truth = diffusion.add_noise(clean, noise, times), diffusion.targets(clean, noise, times)
    assert torch.allclose(diffusion.to_noise(truth, x_t, t), noise, atol=1e-5)
    output = truth + 0.1 * wrong
    error = image_errors(diffusion.to_noise(output, x_t, t), noise)
    assert torch.allclose(image_errors(output, truth) * diffusion.noise_errors(times), error, rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_min_snr_counts_an_error_of_the_clean_picture_alike_for_every_target(target: Target) -> None:
    """min(SNR, gamma) times the squared error of x_0, whatever the model predicts."""
    diffusion = Diffusion(CosineSchedule(), target)
    t = torch.tensor([50, 300, 501, 700, 950])
    noise_error = diffusion.noise_errors(t).double()  # for a squared error of 1 of the output
    clean_error = noise_error * (1 - diffusion.alpha_bar[t]) / diffusion.alpha_bar[t]
    snr = diffusion.alpha_bar[t] / (1 - diffusion.alpha_bar[t])
    weights = diffusion.loss_weights(t, MinSnr(gamma=2.0)).double()
    assert torch.allclose(weights, snr.clamp(max=2) * clean_error, rtol=1e-5)


def test_velocity_is_noise_at_the_start_and_the_negative_picture_at_the_end() -> None:
    diffusion = Diffusion(CosineSchedule(), VelocityTarget())
    clean, noise = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    velocity = diffusion.targets(clean, noise, torch.tensor([0, 1000]))
    assert torch.equal(velocity[0], noise[0])
    assert torch.allclose(velocity[1], -clean[1], atol=0.01)


def test_guidance_of_one_is_none() -> None:
    conditional, unconditional = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).unbind()
    assert torch.allclose(guided(conditional, unconditional, 1.0), conditional)
    assert torch.allclose(guided(conditional, unconditional, 0.0), unconditional)
    assert torch.allclose(guided(conditional, unconditional, 3.0) - unconditional, 3 * (conditional - unconditional))


@pytest.mark.parametrize("steps", [1, 7, 25, 250, 1000, 5000])
def test_respaced_times_fall_from_the_end_to_zero(steps: int) -> None:
    times = respaced(steps, 1000)
    assert times[0] == 1000
    assert times[-1] == 0
    assert len(times) == min(steps, 1000) + 1
    assert all(a > b for a, b in pairwise(times))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_a_perfect_denoiser_of_one_image_returns_it(sampler: DdpmSampler | DdimSampler) -> None:
    diffusion = Diffusion(CosineSchedule())
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(2, 1, 4, 4, generator=generator)

    def denoise(x: torch.Tensor, t: int) -> torch.Tensor:
        alpha_bar = float(diffusion.alpha_bar[t])
        return (x - alpha_bar**0.5 * truth) / (1 - alpha_bar) ** 0.5

    noise = torch.randn(truth.shape, generator=generator)
    result = sampler.sample(denoise, noise, diffusion, lambda: torch.randn(truth.shape, generator=generator), 10.0)
    assert torch.allclose(result, truth, atol=2e-3)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_the_exact_denoiser_of_a_gaussian_gives_that_gaussian(sampler: DdpmSampler | DdimSampler) -> None:
    """Data N(1, 0.5^2) has a closed-form noise prediction; samples must have that mean and deviation."""
    diffusion = Diffusion(CosineSchedule())
    mean, deviation = 1.0, 0.5

    def denoise(x: torch.Tensor, t: int) -> torch.Tensor:
        alpha_bar = float(diffusion.alpha_bar[t])
        variance = alpha_bar * deviation**2 + 1 - alpha_bar
        return (1 - alpha_bar) ** 0.5 * (x - alpha_bar**0.5 * mean) / variance

    generator = torch.Generator().manual_seed(0)
    shape = (4000, 1, 2, 2)
    noise = torch.randn(shape, generator=generator)
    result = sampler.sample(denoise, noise, diffusion, lambda: torch.randn(shape, generator=generator), 50.0)
    tolerance = 0.1 if sampler.steps < 100 else 0.03
    assert result.mean().item() == pytest.approx(mean, abs=tolerance / 2)
    assert result.std().item() == pytest.approx(deviation, abs=tolerance * deviation * 2)
    assert math.isfinite(result.abs().max().item())
