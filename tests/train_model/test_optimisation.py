"""The learning rate's shape, what decays, the running average; saves that come back exactly and are never half there."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from stages.core.errors import ExitCode, TfcliError
from stages.model.config import ModelConfig
from stages.model.transformer import DataFacts, Transfusion
from stages.train_model.config import TrainConfig
from stages.train_model.optimisation import averaged_weights, build_optimizer, learning_rate, update_average
from stages.train_model.saves import TrainState, complete_saves, read_state, save

CONFIG = TrainConfig(steps=100, warmup_steps=10, learning_rate=1e-2, final_learning_rate=1e-4)


def state(seed: int = 0) -> TrainState:
    model = Transfusion(ModelConfig(width=16, layers=1, heads=2), DataFacts(20, 2, 2))
    model.initialise(torch.Generator().manual_seed(seed))
    average = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    return TrainState(model, build_optimizer(model, CONFIG), average)


def step(current: TrainState, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for weight in current.model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    current.optimizer.step()
    update_average(current.ema, current.model, current.step, 0.9)
    current.step += 1


def test_learning_rate_warms_up_and_ends_at_the_final_rate() -> None:
    rates = [learning_rate(number, CONFIG) for number in range(101)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[9] == rates[10] == pytest.approx(1e-2)
    assert rates[100] == pytest.approx(1e-4)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx((1e-2 + 1e-4) / 2)


def test_only_matrices_decay() -> None:
    current = state()
    decayed, plain = current.optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0
    names = {weight: name for name, weight in current.model.named_parameters()}
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert all(weight.ndim == 2 for weight in decayed["params"])
    assert "text_embedding.weight" in {names[weight] for weight in plain["params"]}


def test_the_average_stands_in_for_the_weights_and_gives_way_again() -> None:
    current = state()
    for number in range(3):
        step(current, number)
    before = [weight.detach().clone() for weight in current.model.parameters()]
    with averaged_weights(current.model, current.ema):
        inside = [weight.detach().clone() for weight in current.model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(inside, current.ema.values(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, current.model.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(before, inside, strict=True))


def test_a_save_comes_back_exactly_and_goes_on_alike(tmp_path: Path) -> None:
    first = state()
    for number in range(3):
        step(first, number)
    save(tmp_path, first, keep=2)
    second = state(seed=9)
    read_state(complete_saves(tmp_path)[-1], second)
    for number in range(3, 6):
        step(first, number)
        step(second, number)
    assert second.step == first.step == 6
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(first.ema[name], second.ema[name]) for name in first.ema)


def test_the_newest_complete_saves_stay_and_half_ones_do_not_count(tmp_path: Path) -> None:
    current = state()
    for number in range(4):
        step(current, number)
        save(tmp_path, current, keep=2)
    (tmp_path / "step-00000009").mkdir()
    (tmp_path / "step-00000010.tmp").mkdir()
    assert [path.name for path in complete_saves(tmp_path)] == ["step-00000003", "step-00000004"]


def test_a_damaged_save_is_refused(tmp_path: Path) -> None:
    current = state()
    save(tmp_path, current, keep=1)
    path = tmp_path / "step-00000000" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(TfcliError, match="is damaged") as caught:
        read_state(tmp_path / "step-00000000", state())
    assert caught.value.code == ExitCode.ARTIFACT


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    current = state()
    with torch.no_grad():
        next(current.model.parameters())[0] = torch.nan
    with pytest.raises(TfcliError, match="not finite") as caught:
        save(tmp_path, current, keep=1)
    assert caught.value.code == ExitCode.DIVERGED
    assert complete_saves(tmp_path) == []
