"""Saves come back exactly, are never half there, and damage in one is refused."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Event, Warn, silent
from stages.core.files import with_sum
from stages.train_model.checkpointing import complete_saves, half_saves, newest_state, read_state, save, write_state
from stages.train_model.config import TrainConfig
from stages.train_model.distributed.sharded_state import read_shards, write_shards
from tests.train_model.test_optimizer import CONFIG, MUON, state, step


@pytest.mark.parametrize("config", [CONFIG, MUON], ids=["adamw", "muon"])
def test_a_save_is_restored_exactly_and_training_continues_alike(tmp_path: Path, config: TrainConfig) -> None:
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


def test_a_file_in_an_old_save_outlives_it(tmp_path: Path) -> None:
    trained = state()
    for trained.step in range(3):
        save(tmp_path, trained, keep=1)
        (tmp_path / f"step-{trained.step:08d}" / "notes.txt").write_text("mine")
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("step-0000000[01]/*"))
    assert left == ["step-00000000/notes.txt", "step-00000001/notes.txt"]
    assert half_saves(tmp_path) == []


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
    assert newest_state(tmp_path / "saves", tmp_path, current, silent) is None
    step(current, 0)
    save(tmp_path / "saves", current, keep=1)
    half = tmp_path / "saves" / "step-00000007"
    half.mkdir()
    (half / "weights.safetensors").write_bytes(b"")
    assert half_saves(tmp_path / "saves") == [half]
    assert newest_state(tmp_path / "saves", tmp_path, current, silent) == tmp_path / "saves" / "step-00000001"
    assert half_saves(tmp_path / "saves") == []
    write_state(tmp_path, current)  # all trained, not sealed yet
    assert newest_state(tmp_path / "saves", tmp_path, current, silent) == tmp_path


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


def test_the_step_of_adamw_is_restored(tmp_path: Path) -> None:
    first, second = state(), state(seed=9)
    for number in range(3):
        step(first, number)
    save(tmp_path, first, keep=2)
    read_state(complete_saves(tmp_path)[-1], second)
    slots = [current.optimizers[0].state[next(current.model.parameters())] for current in (first, second)]
    assert slots[0].keys() == slots[1].keys()
    assert all(torch.equal(slots[0][name], slots[1][name]) for name in slots[0])


def test_the_step_of_a_weight_without_a_gradient_is_restored(tmp_path: Path) -> None:
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
        patch.setattr("stages.train_model.checkpointing.write_record", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, current, keep=2)
    assert complete_saves(tmp_path) == []
    save(tmp_path, current, keep=2)
    assert complete_saves(tmp_path) == list(tmp_path.iterdir()) == [tmp_path / "step-00000000"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"step": 0, "files": [{}]}'])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    save(tmp_path, state(), keep=1)
    (tmp_path / "step-00000000" / "state.json").write_text(text)
    with pytest.raises(TfcliError, match="is damaged") as caught:
        read_state(tmp_path / "step-00000000", state())
    assert caught.value.code == ExitCode.ARTIFACT
    assert "state.json" in caught.value.why


@pytest.mark.parametrize("name", ["weights.safetensors", "ema.safetensors", "optimizer.safetensors"])
def test_a_truncated_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path, state(), keep=1)
    path = tmp_path / "step-00000000" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TfcliError, match="is damaged"):
        read_state(tmp_path / "step-00000000", state())
    path.unlink()
    with pytest.raises(TfcliError, match="is damaged") as caught:
        read_state(tmp_path / "step-00000000", state())
    assert "is missing" in caught.value.why


def spoil(folder: Path, how: str) -> None:
    """Damage of a save: a record that says something else with its sum made again, a flipped bit, a file that is gone."""
    path = folder / "state.json"
    record = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "sha256"}
    if how.startswith("step "):
        path.write_text(json.dumps(with_sum({**record, "step": json.loads(how[5:])})))
    elif how == "no files":
        path.write_text(json.dumps(with_sum({**record, "files": []})))
    elif how == "one file less":
        path.write_text(json.dumps(with_sum({**record, "files": record["files"][:-1]})))
    elif how == "without its sum":
        path.write_text(json.dumps({**record, "step": record["step"] + 1}))
    elif how == "a bit of the record":
        path.write_bytes(path.read_bytes().replace(b'"bytes": ', b'"bytes":  ', 1).replace(b'"step": 4', b'"step": 5'))
    else:
        data = bytearray((folder / how).read_bytes())
        data[len(data) // 2] ^= 4
        (folder / how).write_bytes(data)


@pytest.mark.parametrize(
    "how",
    [
        *("step 2", "step 1000000000", "step -1", "step true", 'step "4"', "no files", "one file less"),
        *("without its sum", "a bit of the record", "weights.safetensors", "ema.safetensors", "optimizer.safetensors"),
    ],
)
def test_the_save_before_a_damaged_one_is_used_and_it_is_reported(tmp_path: Path, how: str) -> None:
    current = state()
    for number in range(4):
        step(current, number)
        save(tmp_path, current, keep=2)
    spoil(tmp_path / "step-00000004", how)
    events: list[Event] = []
    assert newest_state(tmp_path, tmp_path / "none", state(), events.append) == tmp_path / "step-00000003"
    (warning,) = events
    assert isinstance(warning, Warn)
    assert "step-00000004 is damaged" in warning.text
    resumed = state(seed=9)
    read_state(tmp_path / "step-00000003", resumed)
    step(resumed, 3)
    save(tmp_path, resumed, keep=2)  # its place is free again
    assert [path.name for path in complete_saves(tmp_path)] == ["step-00000003", "step-00000004"]
    for one, other in zip(current.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    for name in ("step-00000003", "step-00000004"):
        spoil(tmp_path / name, "weights.safetensors")
    for _ in range(2):  # the second run does not start from 0 in silence
        with pytest.raises(TfcliError, match="all saves in") as caught:
            newest_state(tmp_path, tmp_path / "none", state(), events.append)
        assert caught.value.code == ExitCode.ARTIFACT


def test_a_save_of_before_there_was_a_sum_is_read(tmp_path: Path) -> None:
    current = state()
    step(current, 0)
    save(tmp_path, current, keep=1)
    path = tmp_path / "step-00000001" / "state.json"
    record = json.loads(path.read_bytes())
    del record["sha256"]
    path.write_text(json.dumps(record))
    assert newest_state(tmp_path, tmp_path / "none", state(), silent) == path.parent
    resumed = state(seed=9)
    read_state(path.parent, resumed)
    assert resumed.step == 1


def test_a_full_disk_is_reported_for_sharded_weights_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
