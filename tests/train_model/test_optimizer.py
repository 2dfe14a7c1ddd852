"""The learning rate's shape, what decays, and the running average."""

from __future__ import annotations

import importlib.util
import itertools

import pytest
import torch

from stages.model.config import ModelConfig
from stages.model.transformer import ModelDims, Transfusion
from stages.train_model import optimizer as optimizer_module
from stages.train_model.checkpointing import TrainState
from stages.train_model.config import TrainConfig
from stages.train_model.optimizer import averaged_weights, build_optimizers, learning_rate, update_average

CONFIG = TrainConfig(steps=100, warmup_steps=10, learning_rate=1e-2, final_learning_rate=1e-4)

MUON = CONFIG.model_copy(update={"optimizer": "muon"})


def state(seed: int = 0, config: TrainConfig = CONFIG) -> TrainState:
    model = Transfusion(ModelConfig(width=16, layers=1, heads=2), ModelDims(20, 2, 2))
    model.initialise(torch.Generator().manual_seed(seed))
    average = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    return TrainState(model, build_optimizers(model, config), average)


def step(current: TrainState, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    for weight in current.model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)
    for optimizer in current.optimizers:
        optimizer.step()
    update_average(current.ema, current.model, current.step, 0.9)
    current.step += 1


def test_learning_rate_warms_up_and_ends_at_the_final_rate() -> None:
    rates = [learning_rate(number, CONFIG) for number in range(101)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[9] == rates[10] == pytest.approx(1e-2)
    assert rates[100] == pytest.approx(1e-4)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[55] == pytest.approx((1e-2 + 1e-4) / 2)


def test_wsd_holds_the_peak_and_falls_at_the_end() -> None:
    config = CONFIG.model_copy(update={"rate_schedule": "wsd", "decay_share": 0.25})
    rates = [learning_rate(number, config) for number in range(101)]
    assert rates[:10] == [learning_rate(number, CONFIG) for number in range(10)]
    assert set(rates[10:76]) == {1e-2}
    assert all(a > b for a, b in itertools.pairwise(rates[75:]))
    assert rates[100] == pytest.approx(1e-4)
    assert rates[81] == pytest.approx(1e-4 + (1e-2 - 1e-4) * (1 - (6 / 25) ** 0.5))
    longer = config.model_copy(update={"steps": 200})
    assert [learning_rate(number, longer) for number in range(76)] == rates[:76]


def test_only_matrices_decay() -> None:
    current = state()
    decayed, plain = current.optimizers[0].param_groups
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0
    names = {weight: name for name, weight in current.model.named_parameters()}
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert all(weight.ndim == 2 for weight in decayed["params"])
    assert "text_embedding.weight" in {names[weight] for weight in plain["params"]}


def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    current = state(config=MUON)
    muon, adamw = current.optimizers
    names = {weight: name for name, weight in current.model.named_parameters()}
    by_muon, by_adamw = (
        {names[weight] for group in optimizer.param_groups for weight in group["params"]} for optimizer in (muon, adamw)
    )
    assert by_muon == {
        name for name in names.values() if name.startswith("blocks.") and not name.endswith("norm.weight")
    }
    assert by_adamw == set(names.values()) - by_muon


def test_an_update_of_muon_has_the_size_of_one_of_adamw() -> None:
    """So that learning rates carry over: 0.2 of the rate per weight, whatever the matrix (arXiv 2502.16982, eq. 4)."""
    model = Transfusion(ModelConfig(width=128, layers=1, heads=2), ModelDims(20, 2, 2))
    model.initialise(torch.Generator().manual_seed(0))
    muon, _ = build_optimizers(model, MUON)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for number, weight in enumerate(model.parameters()):
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
    muon.step()
    sizes = []
    for name, weight in model.named_parameters():
        if name.startswith("blocks.") and weight.ndim == 2:
            decayed = before[name] * (1 - MUON.learning_rate * MUON.weight_decay)
            sizes.append(float(((weight.detach() - decayed) / MUON.learning_rate).square().mean().sqrt()))
    assert len(sizes) == 4
    assert all(0.15 < size < 0.25 for size in sizes), sizes


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


def test_the_average_comes_back_after_an_error_and_none_is_no_change() -> None:
    current = state()
    step(current, 0)
    before = [weight.detach().clone() for weight in current.model.parameters()]
    with pytest.raises(KeyError), averaged_weights(current.model, current.ema):
        raise KeyError
    with averaged_weights(current.model, {}):
        assert all(torch.equal(a, b) for a, b in zip(before, current.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, current.model.parameters(), strict=True))


def test_the_average_follows_fast_at_first_and_by_the_decay_later() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    for number, decay, rate in [(0, 0.999, 0.9), (10**6, 0.999, 0.001), (0, 0.05, 0.95)]:
        average = {"weight": torch.zeros(1, 2)}
        update_average(average, model, number, decay)
        assert torch.allclose(average["weight"], rate * model.weight.detach(), rtol=1e-3)


def test_no_warm_up_starts_at_the_peak_and_one_longer_than_the_run_never_divides_by_zero() -> None:
    assert learning_rate(0, CONFIG.model_copy(update={"warmup_steps": 0})) == 1e-2
    late = CONFIG.model_copy(update={"warmup_steps": 100})
    assert learning_rate(99, late) == pytest.approx(1e-2)
    assert learning_rate(100, late) == pytest.approx(1e-2)


def test_without_muons_private_names_of_torch_adamw_still_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only Muon on sharded weights needs them: a torch that renames them must not break anybody else."""
    for name in ("_adjust_lr", "_zeropower_via_newtonschulz"):
        monkeypatch.delattr(f"torch.optim._muon.{name}")
    spec = importlib.util.spec_from_file_location("optimizer_of_another_torch", optimizer_module.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (adamw,) = module.build_optimizers(state().model, CONFIG)
    assert isinstance(adamw, torch.optim.AdamW)
