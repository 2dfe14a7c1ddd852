"""States that are damaged, or that processes see differently, change no result: they are refused or an older one is taken."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts.folder import Build
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Event, Warn, silent
from stages.core.files import with_sum
from stages.pack_sequences.config import PackConfig
from stages.train_model.checkpointing import newest_state, save, write_state
from stages.train_model.distributed.ranks import Ranks
from stages.train_model.monitor import overfitting
from tests.builders import Story, make_all
from tests.train_model.test_optimizer import state, step
from tests.train_model.test_overfitting import Killed, train

SETTINGS: dict[str, Any] = {"steps": 6, "save_every": 2, "eval_every": 2}
BEST = {**SETTINGS, "keep_best": "heldout_text_loss"}


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stories = [Story((f"a text about {number * 7919 % 1000}", None)) for number in range(20)]
    return make_all(tmp_path_factory.mktemp("data"), stories, PackConfig(row_length=64, patch_side=2))


def dies(*_: object, **__: object) -> None:
    raise Killed


def edit(path: Path, *, has_sum: bool, **values: Any) -> None:
    record = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "sha256"} | values
    path.write_text(json.dumps(with_sum(record) if has_sum else record))


@pytest.mark.parametrize("at", [4, 7])
@pytest.mark.parametrize("has_sum", [False, True])
def test_a_folder_before_its_seal_is_compared_with_the_steps_of_the_training(
    sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, has_sum: bool
) -> None:
    whole = train(sequences, tmp_path / "whole", [], **SETTINGS)
    for method, left in (("remove", True), ("seal", False)):  # with its saves still there, and without
        target, events = tmp_path / method, list[Event]()
        with monkeypatch.context() as patch:
            patch.setattr(Build, method, dies)
            with pytest.raises(Killed):
                train(sequences, target, [], **SETTINGS)
        edit(tmp_path / f"{method}.partial" / "state.json", has_sum=has_sum, step=at)
        if left:
            assert train(sequences, target, events, **SETTINGS).digest == whole.digest
            (warning,) = [event.text for event in events if isinstance(event, Warn) and "damaged" in event.text]
            assert f"state.json is of step {at}, the training ends at step 6" in warning
        else:
            with pytest.raises(TfcliError, match="all saves in") as caught:
                train(sequences, target, events, **SETTINGS)
            assert caught.value.code == ExitCode.ARTIFACT


@pytest.mark.parametrize("how", ["byte of the record", "byte of the weights", "step", "no record", "no weights"])
def test_a_damaged_record_of_the_best_weights_is_refused(
    sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(overfitting.OverfittingMonitor, "load_best", dies)
        with pytest.raises(Killed):
            train(sequences, tmp_path / "t", [], **BEST)
    best = tmp_path / "t.partial" / "saves" / "best"
    whole = shutil.copytree(best, tmp_path / "copy")
    for record in best.glob("*.json"):
        path = record.with_suffix(".safetensors") if "weights" in how else record
        if how.startswith("byte"):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        elif how == "step":
            edit(path, has_sum=True, step=1)
        else:
            path.unlink()
    for _ in range(2):  # and again: nothing of it is taken for good
        with pytest.raises(TfcliError, match=r"best weights .* cannot be used") as caught:
            train(sequences, tmp_path / "t", [], **BEST)
        assert caught.value.code == ExitCode.ARTIFACT
    shutil.rmtree(best)
    shutil.copytree(whole, best)
    assert train(sequences, tmp_path / "t", [], **BEST).stats["best"]["figure"] == "heldout_text_loss"


def two_saves(folder: Path) -> None:
    current = state()
    for number in range(2):
        step(current, number)
        save(folder, current, keep=2)


def test_every_byte_of_a_record_counts(tmp_path: Path) -> None:
    """A save whose state.json has one wrong byte, wherever, is set aside."""
    two_saves(tmp_path)
    newest, damaged = tmp_path / "step-00000002", tmp_path / "step-00000002.damaged"
    data = (newest / "state.json").read_bytes()
    reader = state()
    for index in range(len(data)):
        spoilt = bytearray(data)
        spoilt[index] ^= 1 << index % 8
        (newest / "state.json").write_bytes(spoilt)
        assert newest_state(tmp_path, tmp_path / "none", reader, silent) == tmp_path / "step-00000001", index
        damaged.rename(newest)
    (newest / "state.json").write_bytes(data)
    assert newest_state(tmp_path, tmp_path / "none", reader, silent) == newest


@dataclass
class Table:
    """What two processes, here threads, say to each other."""

    values: list[int] = field(default_factory=lambda: [0, 0])
    meet: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=30))


@dataclass(frozen=True)
class Rank(Ranks):
    table: Table = field(default_factory=Table)

    def all_reduce_max(self, value: int) -> int:
        self.table.values[self.index] = value
        self.table.meet.wait()
        found = max(self.table.values)
        self.table.meet.wait()
        return found


@pytest.mark.parametrize("file", ["weights.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("sealing", [False, True])
def test_processes_that_disagree_take_the_same_older_state(tmp_path: Path, file: str, sealing: bool) -> None:
    """Each looks at the bytes of some of the files; only the second sees the damage where `file` is one of its share."""
    saves = tmp_path / "saves"
    two_saves(saves)
    damaged = saves / "step-00000002"
    if sealing:
        current = state()
        current.step = 2
        write_state(tmp_path, current)
        damaged, older = tmp_path, saves / "step-00000002"
    else:
        older = saves / "step-00000001"
    data = bytearray((damaged / file).read_bytes())
    data[-3] ^= 4
    (damaged / file).write_bytes(data)
    table, found, events = Table(), dict[int, object](), dict[int, list[Event]]({0: [], 1: []})

    def look(index: int) -> None:
        mine = state()
        mine.ranks = Rank(index=index, count=2, table=table)
        found[index] = newest_state(saves, tmp_path, mine, events[index].append, 2)

    threads = [threading.Thread(target=look, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: older, 1: older}
    assert any(isinstance(event, Warn) and "damaged" in event.text for event in events[0])
