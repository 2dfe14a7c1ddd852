"""Laws of the forward process, its schedule, targets, loss weights and timesteps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stages.diffusion.config import DiffusionConfig
from stages.diffusion.process import Diffusion, image_errors
from stages.diffusion.schedules import CosineSchedule, FlowSchedule, Schedule
from stages.diffusion.targets import CleanTarget, FlowTarget, NoiseTarget, Target, VelocityTarget
from stages.diffusion.timesteps import LogitNormalTimesteps, TimestepDistribution, UniformTimesteps, strata
from stages.diffusion.weighting import MinSnr, Uniform

PAIRS: list[tuple[Schedule, Target]] = [
    (CosineSchedule(), NoiseTarget()),
    (CosineSchedule(), VelocityTarget()),
    (CosineSchedule(), CleanTarget()),
    (FlowSchedule(), FlowTarget()),
    (FlowSchedule(), CleanTarget()),
]
PAIR_NAMES = [f"{schedule.kind} {target.kind}" for schedule, target in PAIRS]
pairs = pytest.mark.parametrize(("schedule", "target"), PAIRS, ids=PAIR_NAMES)


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
    x0, eps = torch.randn(2, 512, 2, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    for t in (1, 300, 700, 1000):
        noised = diffusion.add_noise(x0, eps, torch.full((512,), t))
        assert noised.var().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(diffusion.add_noise(x0, eps, torch.zeros(512, dtype=torch.long)), x0)


def test_flow_runs_straight_from_the_image_to_the_noise() -> None:
    diffusion = Diffusion(FlowSchedule())
    x0, eps = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    found = diffusion.add_noise(x0, eps, torch.tensor([0, 250, 1000]))
    expected = torch.stack((x0[0], 0.75 * x0[1] + 0.25 * eps[1], eps[2]))
    assert torch.allclose(found, expected, atol=1e-6)


def test_timesteps_cover_one_to_the_limit_of_each_image() -> None:
    diffusion = Diffusion(CosineSchedule())
    limits = torch.tensor([1000, 500] * 20_000)
    t = diffusion.sample_timesteps(limits, 16, torch.Generator().manual_seed(0))
    assert t.min() == 1
    assert t[0::2].max() == 1000
    assert t[1::2].max() == 500
    assert t[0::2].double().mean().item() == pytest.approx(500.5, abs=6)
    assert t[1::2].double().mean().item() == pytest.approx(250.5, abs=3)


@pytest.mark.parametrize("pixels", [64, 256, 1024])
def test_logit_normal_timesteps_have_the_stated_quantiles_and_move_with_the_image(pixels: int) -> None:
    """fraction / (1 - fraction) is exp(normal) times sqrt(pixels / base): its logarithm has that mean and standard deviation."""
    timesteps = LogitNormalTimesteps(mean=0.3, deviation=0.8, base_pixels=256)
    fraction = timesteps.sample(40_000, pixels, torch.Generator().manual_seed(0))
    logit = fraction.logit()
    assert logit.mean().item() == pytest.approx(0.3 + 0.5 * math.log(pixels / 256), abs=0.02)
    assert logit.std().item() == pytest.approx(0.8, abs=0.01)
    fixed = LogitNormalTimesteps().sample(8, pixels, torch.Generator().manual_seed(0))
    assert torch.equal(fixed, LogitNormalTimesteps().sample(8, 1, torch.Generator().manual_seed(0)))
    limits = torch.full((40_000,), 500)
    diffusion = Diffusion(FlowSchedule(), timestep_distribution=LogitNormalTimesteps())
    t = diffusion.sample_timesteps(limits, pixels, torch.Generator().manual_seed(0))
    assert t.min() >= 1
    assert t.max() <= 500
    assert t.double().mean().item() == pytest.approx(250.5, abs=3)


@pytest.mark.parametrize("pixels", [64, 256])
@pytest.mark.parametrize(
    "times", [UniformTimesteps(), LogitNormalTimesteps(mean=0.3, deviation=0.8, base_pixels=256)], ids=lambda t: t.kind
)
def test_quantiles_are_those_of_the_random_times(times: TimestepDistribution, pixels: int) -> None:
    count = 40_000
    drawn = times.sample(count, pixels, torch.Generator().manual_seed(0)).sort().values
    expected = times.quantile((torch.arange(count) + 0.5).double() / count, pixels)
    inner = slice(count // 100, -count // 100)
    assert torch.allclose(drawn[inner], expected[inner], atol=0.01)
    diffusion = Diffusion(CosineSchedule(), timestep_distribution=times)
    extremes = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    assert diffusion.timesteps_at(extremes, torch.tensor([1000, 500]), pixels).tolist() == [[1, 1], [1000, 500]]


@pytest.mark.parametrize(("num_draws", "count"), [(1, 1), (1, 6), (5, 1), (4, 3)])
def test_strata_have_a_value_each_and_every_image_one_in_each_part(num_draws: int, count: int) -> None:
    all_found = []
    for seed in range(400):
        u_KI = strata(num_draws, count, torch.Generator().manual_seed(seed))
        assert u_KI.shape == (num_draws, count)
        assert (u_KI * num_draws * count).long().flatten().sort().values.tolist() == list(range(num_draws * count))
        for own in (u_KI * num_draws).long().T:
            assert own.sort().values.tolist() == list(range(num_draws))
        all_found.append(u_KI)
    values = torch.stack(all_found).flatten(1).sort(0).values  # of each draw of each image: uniform
    assert (values - (torch.arange(400) + 0.5)[:, None] / 400).abs().max() < 0.1


@pytest.mark.parametrize(("schedule", "target"), [("flow", "noise"), ("flow", "velocity"), ("cosine", "flow")])
def test_a_target_that_does_not_fit_its_schedule_is_refused(schedule: str, target: str) -> None:
    with pytest.raises(ValueError, match="does not go with"):
        DiffusionConfig.model_validate({"schedule": {"kind": schedule}, "target": {"kind": target}})


def test_image_errors_are_means_inside_an_image() -> None:
    predicted = torch.zeros(3, 2, 4, 4)
    noise = torch.stack([torch.full((2, 4, 4), float(i)) for i in range(3)])
    assert image_errors(predicted, noise).tolist() == pytest.approx([0, 1, 4])


def test_weights_are_one_or_fall_with_the_signal() -> None:
    diffusion = Diffusion(CosineSchedule())
    t = torch.tensor([1, 100, 300, 501, 1000])
    assert diffusion.loss_weights(t, Uniform()).tolist() == [1] * 5
    weights = diffusion.loss_weights(t, MinSnr(gamma=1.0))
    snr = (diffusion.alpha[t] / diffusion.sigma[t]) ** 2
    assert torch.allclose(weights, (snr.clamp(max=1) / snr).float())
    assert weights[-2:].tolist() == [1, 1]
    assert (weights[:3].diff() > 0).all()


@pairs
@pytest.mark.parametrize("t", [1, 300, 700, 999])
def test_every_target_gives_x0_and_its_error_gives_the_error_of_eps(schedule: Schedule, target: Target, t: int) -> None:
    diffusion = Diffusion(schedule, target)
    x0, eps, wrong = torch.randn(3, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    t_I = torch.full((4,), t)
    alpha, sigma = diffusion.alpha[t].item(), diffusion.sigma[t].item()
    x_t, truth = diffusion.add_noise(x0, eps, t_I), diffusion.targets(x0, eps, t_I)
    assert torch.allclose(diffusion.to_x0(truth, x_t, t), x0, atol=1e-6 / alpha)
    output = truth + 0.1 * wrong
    found = (x_t - alpha * diffusion.to_x0(output, x_t, t)) / sigma  # the eps that the output implies
    error = image_errors(found, eps)
    assert torch.allclose(image_errors(output, truth) * diffusion.eps_mse_factor(t_I), error, rtol=2e-3, atol=1e-9)


@pairs
def test_min_snr_weighs_an_error_of_x0_alike_for_every_target(schedule: Schedule, target: Target) -> None:
    """min(SNR, gamma) times the squared error of x_0, whatever the model predicts."""
    diffusion = Diffusion(schedule, target)
    t = torch.tensor([50, 300, 501, 700, 950])
    factor = diffusion.eps_mse_factor(t).double()
    snr = (diffusion.alpha[t] / diffusion.sigma[t]) ** 2
    weights = diffusion.loss_weights(t, MinSnr(gamma=2.0)).double()
    assert torch.allclose(weights, snr.clamp(max=2) * factor / snr, rtol=1e-5)


@pytest.mark.parametrize(
    ("target", "weighting", "expected"),
    [
        (NoiseTarget(), Uniform(), (0.10, 0.025)),
        (NoiseTarget(), MinSnr(gamma=0.3), (0.10, 0.025)),
        (VelocityTarget(), MinSnr(gamma=0.3), (0.10, 0.025)),
        (VelocityTarget(), Uniform(), (1.10, 1.02)),
    ],
    ids=["noise", "noise min-snr", "velocity min-snr", "velocity"],
)
def test_min_snr_counts_the_image_at_high_noise_as_little_as_noise_prediction(
    target: Target, weighting: Uniform | MinSnr, expected: tuple[float, float]
) -> None:
    """The figures of the docstring of MinSnr, from the outputs that two images behind one x_t amount to."""
    diffusion, t_I = Diffusion(CosineSchedule(), target), torch.tensor([800, 900])
    x_t, x0, wrong = torch.randn(3, 2, 2, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    alpha, sigma = (each[t_I].float()[:, None, None, None] for each in (diffusion.alpha, diffusion.sigma))
    outputs = [target.compute(each, (x_t - alpha * each) / sigma, alpha, sigma) for each in (x0, wrong)]
    loss_I = image_errors(*outputs) * diffusion.loss_weights(t_I, weighting)
    found = loss_I / image_errors(x0, wrong)
    assert found.tolist() == pytest.approx(list(expected), rel=0.05)


def test_velocity_is_noise_at_the_start_and_the_negative_picture_at_the_end() -> None:
    diffusion = Diffusion(CosineSchedule(), VelocityTarget())
    x0, eps = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    velocity = diffusion.targets(x0, eps, torch.tensor([0, 1000]))
    assert torch.equal(velocity[0], eps[0])
    assert torch.allclose(velocity[1], -x0[1], atol=0.01)
