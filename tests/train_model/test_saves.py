"""Saves come back exactly, are never half there, and damage in one is refused."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from stages.core.errors import ExitCode, TfcliError
from stages.train_model.config import TrainConfig
from stages.train_model.ranks import Ranks
from stages.train_model.saves import complete_saves, half_saves, newest_state, read_state, save
from stages.train_model.shards import read_shards, write_shards
from tests.train_model.test_optimisation import CONFIG, MUON, state, step


@pytest.mark.parametrize("config", [CONFIG, MUON], ids=["adamw", "muon"])
def test_a_save_comes_back_exactly_and_goes_on_alike(tmp_path: Path, config: TrainConfig) -> None:
    first = state(config=config)
    for number in range(3):
        step(first, number)
    save(tmp_path, first, keep=2)
    second = state(seed=9, config=config)
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
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "step-00000009").mkdir()
    (tmp_path / "step-00000010.tmp").mkdir()
    (tmp_path / "step-00000010.tmp" / "state.json").write_text("{}")
    assert [path.name for path in complete_saves(tmp_path)] == ["step-00000003", "step-00000004"]


def test_a_half_save_is_passed_over_and_named(tmp_path: Path) -> None:
    current = state()
    assert newest_state(tmp_path / "saves", tmp_path, Ranks()) is None
    step(current, 0)
    save(tmp_path / "saves", current, keep=1)
    half = tmp_path / "saves" / "step-00000007"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"")
    assert half_saves(tmp_path / "saves") == [half]
    assert newest_state(tmp_path / "saves", tmp_path, Ranks()) == tmp_path / "saves" / "step-00000001"
    (tmp_path / "state.json").write_text("{}")  # all trained, not sealed yet
    assert newest_state(tmp_path / "saves", tmp_path, Ranks()) == tmp_path


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


def test_the_step_of_adamw_goes_on_from_the_save(tmp_path: Path) -> None:
    first, second = state(), state(seed=9)
    for number in range(3):
        step(first, number)
    save(tmp_path, first, keep=2)
    read_state(complete_saves(tmp_path)[-1], second)
    slots = [current.optimizers[0].state[next(current.model.parameters())] for current in (first, second)]
    assert slots[0].keys() == slots[1].keys()
    assert all(torch.equal(slots[0][name], slots[1][name]) for name in slots[0])


def test_a_weight_that_sat_out_a_step_goes_on_from_its_own_step(tmp_path: Path) -> None:
    """A batch without images gives the patch codec no gradient, and AdamW then leaves its count of steps behind."""
    first, second = state(), state(seed=9)
    for number in range(4):
        step(first, number)
        if number == 2:
            first.optimizers[0].zero_grad(set_to_none=True)
            first.model.text_head.weight.grad = torch.ones_like(first.model.text_head.weight)
            first.optimizers[0].step()
    save(tmp_path, first, keep=1)
    read_state(complete_saves(tmp_path)[-1], second)
    steps = [
        [float(current.optimizers[0].state[weight]["step"]) for weight in current.model.parameters()]
        for current in (first, second)
    ]
    assert steps[0] == steps[1]
    assert set(steps[0]) == {4.0, 5.0}


def test_a_kill_in_the_middle_leaves_no_save_and_the_next_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_path: Path, _value: object) -> None:
        raise KeyboardInterrupt

    current = state()
    with monkeypatch.context() as patch:
        patch.setattr("stages.train_model.saves.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, current, keep=2)
    assert complete_saves(tmp_path) == []
    save(tmp_path, current, keep=2)
    assert complete_saves(tmp_path) == list(tmp_path.iterdir()) == [tmp_path / "step-00000000"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"step": 0, "files": [{}]}'])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    save(tmp_path, state(), keep=1)
    (tmp_path / "step-00000000" / "state.json").write_text(text)
    with pytest.raises(TfcliError, match=r"state\.json is damaged") as caught:
        read_state(tmp_path / "step-00000000", state())
    assert caught.value.code == ExitCode.ARTIFACT


@pytest.mark.parametrize("name", ["weights.safetensors", "ema.safetensors", "optimizer.safetensors"])
def test_a_cut_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path, state(), keep=1)
    path = tmp_path / "step-00000000" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TfcliError, match="is damaged"):
        read_state(tmp_path / "step-00000000", state())
    path.unlink()
    with pytest.raises(TfcliError, match="is missing"):
        read_state(tmp_path / "step-00000000", state())


def test_a_full_disk_is_told_for_cut_weights_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch tells of it by a CheckpointException, which no `except Exception` catches."""

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TfcliError, match="cannot write") as caught:
        write_shards(tmp_path, {"weight": torch.ones(4)})
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_shards_that_cannot_be_read_are_an_exception(tmp_path: Path) -> None:
    write_shards(tmp_path, {"weight": torch.ones(4)})
    with pytest.raises(RuntimeError, match="Missing key"):
        read_shards(tmp_path, {"another": torch.ones(4)})


@pytest.mark.parametrize("place", [0, 1, 2, 3, 5])
def test_a_save_that_the_disk_refuses_is_removed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """The disk may be full of it; the older one stays."""
    current, calls, real = state(), [], os.fsync
    step(current, 0)
    save(tmp_path, current, keep=2)
    step(current, 1)

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == place + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TfcliError, match="cannot write") as caught:
        save(tmp_path, current, keep=2)
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    save(tmp_path, current, keep=2)
    assert [path.name for path in complete_saves(tmp_path)] == ["step-00000001", "step-00000002"]
