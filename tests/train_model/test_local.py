"""A training on a CPU that starts processes for its steps: the result of one, nothing left of a kill, and when it does so."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from stages.artifacts.checkpoint import PROCESSES, SAVES
from stages.artifacts.context import StageContext
from stages.artifacts.folder import Build
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Event, Note
from stages.core.files import read_record, write_record
from stages.core.interrupts import Interrupts
from stages.core.runtime import Launch, Runtime
from stages.diffusion.config import DiffusionConfig
from stages.generation.config import GenerationConfig
from stages.pack_sequences.config import PackConfig
from stages.train_model import stage
from stages.train_model.config import TrainConfig
from stages.train_model.distributed import local, trial
from stages.train_model.distributed.local import Plan, count_for, plan_processes
from stages.train_model.sections import Sections
from tests.builders import make_all, stamp
from tests.core.test_processes import runs
from tests.train_model.many import MODEL, TRAIN, Job, Outcome, term, train
from tests.train_model.test_ranks import STORIES, check_same

ROOT = Path(__file__).parents[2]
TWO = TRAIN.model_copy(update={"processes": 2, "save_every": 2})
FILES = ("weights.safetensors", "ema.safetensors", "optimizer.safetensors", "metrics.jsonl")
# A training that ends itself by SIGKILL after step 3, and prints the processes that it started.
KILLED = """
import multiprocessing, os, signal, sys
from pathlib import Path
from tests.train_model.many import Job, train
from tests.train_model.test_local import TWO

def end(_interrupts):
    print(*[child.pid for child in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    train(Job("killed", TWO, {(0, 3): end}), Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    make_all(folder, STORIES, PackConfig(row_length=48, heldout_fraction=0.2))
    assert train(Job("one", TRAIN), folder) == Outcome(0)
    return folder


@pytest.fixture(scope="module")
def two(work: Path) -> Path:
    assert train(Job("two", TWO), work) == Outcome(0)
    assert multiprocessing.active_children() == []
    return work / "two"


def bytes_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def test_two_processes_of_its_own_take_the_steps_of_one(work: Path, two: Path) -> None:
    check_same(work, two.name)
    one, shared = bytes_of(work / "one"), bytes_of(two)
    assert one[0] != shared[0], "the sums have another order: equal bytes come from one process"


def test_a_kill_leaves_no_process_and_the_rerun_has_the_same_bytes(work: Path, two: Path) -> None:
    program = work / "killed.py"
    program.write_text(KILLED)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program), str(work)]
    # files: a process that outlives the training would hold a pipe open
    with open(work / "out", "w") as out, open(work / "errors", "w") as errors:
        done = subprocess.run(command, env=env, stdout=out, stderr=errors, check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert (work / "errors").read_text() == ""
    (pid,) = [int(word) for word in (work / "out").read_text().split()]
    deadline = time.monotonic() + 20
    while runs(pid):
        assert time.monotonic() < deadline, "the process that was started outlives the training"
        time.sleep(0.02)
    saves = work / "killed.partial" / SAVES
    assert (saves / "step-00000002" / "state.json").exists()
    assert train(Job("killed", TWO), work) == Outcome(0)
    assert bytes_of(work / "killed") == bytes_of(two)
    assert not (work / "killed" / SAVES).exists()


def test_a_signal_stops_all_after_a_save_and_auto_resumes_with_as_many(
    work: Path, two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = train(Job("stopped", TWO, {(0, 3): term}), work)
    assert (stopped.code, stopped.why) == (ExitCode.TERMINATED, "state saved at step 3")
    assert multiprocessing.active_children() == []
    assert read_record(work / "stopped.partial" / SAVES / PROCESSES) == {"processes": 2}
    monkeypatch.setattr(local, "usable_cores", lambda: 2)
    assert train(Job("stopped", TWO.model_copy(update={"processes": "auto"})), work) == Outcome(0)
    assert bytes_of(work / "stopped") == bytes_of(two)


def test_a_process_that_is_killed_ends_the_training_soon(work: Path) -> None:
    def kill(_interrupts: Interrupts) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    found = train(Job("child-killed", TWO, {(0, 2): kill}), work)
    assert (found.code, found.what) == (ExitCode.ENVIRONMENT, "rank 1 exited")
    assert found.seconds < 60
    assert multiprocessing.active_children() == []


def test_a_process_that_cannot_start_is_named(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_WORKER", "stages.core.text")  # nothing to serve with
    found = train(Job("no-start", TWO), work)
    assert (found.code, found.what) == (ExitCode.ENVIRONMENT, "process 1 of the training exited")


@pytest.mark.parametrize(("gain", "count"), [(0.0, 2), (1e9, 1)])
def test_the_measurement_decides_and_leaves_no_trace(
    work: Path, two: Path, monkeypatch: pytest.MonkeyPatch, gain: float, count: int
) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: 2)
    monkeypatch.setattr(local, "_LEAST_FLOPS", 0.0)
    monkeypatch.setattr(local, "_GAIN", gain)
    monkeypatch.setattr(trial, "_ROUND_SECONDS", 0.0)
    notes: list[Event] = []
    records: list[Path] = []
    real = stage.Training.run

    def run(training: stage.Training) -> None:
        records.append(training.build.folder / SAVES / PROCESSES)
        assert read_record(records[0]) == {"processes": training.ranks.count}
        assert len(multiprocessing.active_children()) == count - 1
        real(training)

    monkeypatch.setattr(stage.Training, "run", run)
    monkeypatch.setattr(local._Processes, "pay", noting(local._Processes.pay, notes))
    auto = TWO.model_copy(update={"processes": "auto"})
    name = f"auto-{count}"
    assert train(Job(name, auto), work) == Outcome(0)
    assert records
    (note,) = notes
    assert isinstance(note, Note)
    assert note.text.startswith("2 processes of 1 thread: " if count == 2 else "one process: ")
    assert bytes_of(work / name) == bytes_of(two if count == 2 else work / "one")


def noting(real: object, notes: list[Event]) -> object:
    def pay(processes: local._Processes) -> bool:
        processes._runtime = replace(processes._runtime, report=notes.append)
        assert callable(real)
        return bool(real(processes))

    return pay


@pytest.fixture
def context(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageContext:
    """Of a training of one step more than is too short to measure, on four cores."""
    monkeypatch.setattr(local, "usable_cores", lambda: 4)
    monkeypatch.setattr(local, "_LEAST_FLOPS", flops(8))
    (tmp_path / "checkpoint.partial").mkdir()
    target = tmp_path / "checkpoint"
    return StageContext(
        Build(target, stamp("checkpoint", "train", {"sequences": work / "sequences"}, target)), Runtime(), 0
    )


def flops(steps: int) -> float:
    weights = (4 * MODEL.width**2 + 3 * MODEL.width * MODEL.feed_forward_width) * MODEL.layers
    return 6 * weights * steps * 4 * 48 - 1


def planned(work: Path, context: StageContext, **changes: object) -> Plan:
    train_config = TrainConfig.model_validate({"steps": 8, "batch_rows": 4, **changes})
    sections = Sections(MODEL, DiffusionConfig(), train_config, GenerationConfig())
    return plan_processes(sections, work / "sequences", context)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Plan(4, measure=True)),
        ({"steps": 7}, Plan(1)),
        ({"batch_rows": 1, "steps": 100}, Plan(1)),
        ({"processes": 1}, Plan(1)),
        ({"processes": 3}, Plan(3)),
        ({"processes": 9}, Plan(4)),
        ({"processes": 2, "steps": 1}, Plan(2)),
        ({"processes": 2, "sharding": "full"}, Plan(1)),
    ],
)
def test_when_steps_are_shared(work: Path, context: StageContext, changes: dict[str, object], expected: Plan) -> None:
    assert planned(work, context, **changes) == expected


def test_one_core_torchrun_or_little_memory_is_one_process(
    work: Path, context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert planned(work, replace(context, runtime=Runtime(launch=Launch(0, 2, 0))), processes=2) == Plan(1)
    with monkeypatch.context() as patch:
        patch.setattr(local, "usable_cores", lambda: 1)
        assert planned(work, context) == Plan(1)
    with monkeypatch.context() as patch:
        patch.setattr(local, "available_bytes", lambda: 10**9)
        assert planned(work, context) == Plan(1)
        assert planned(work, context, batch_rows=2, steps=16) == Plan(2, measure=True)


def test_a_training_that_resumes_keeps_the_number_it_began_with(work: Path, context: StageContext) -> None:
    saves = context.build.folder / SAVES
    saves.mkdir()
    write_record(saves / PROCESSES, {"processes": 3})
    assert planned(work, context) == Plan(3)
    assert planned(work, context, steps=1) == Plan(3)
    write_record(saves / PROCESSES, {"processes": "many"})
    with pytest.raises(TfcliError, match="is damaged") as caught:
        planned(work, context)
    assert caught.value.code == ExitCode.ARTIFACT
    (saves / PROCESSES).unlink()
    save = saves / "step-00000002"
    save.mkdir()
    (save / "state.json").write_text("{}")
    assert planned(work, context) == Plan(1), "an older tfcli began it"


def test_as_few_processes_as_the_longest_share_of_rows_needs() -> None:
    for rows in range(1, 20):
        for cores in range(1, 12):
            count = count_for(TrainConfig(batch_rows=rows), cores)
            longest = -(-rows // min(cores, 8))
            assert -(-rows // count) == longest
            assert count == 1 or -(-rows // (count - 1)) > longest
