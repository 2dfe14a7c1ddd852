"""Processes of this machine that share the steps of one training on a CPU, started by the training itself.

A small model leaves most cores idle in one process: its matrices are too small to share among threads. Processes of one thread
that each take some rows of a step use them. The first process makes the checkpoint, holds the lock and handles signals; the
others are its helpers (stages/core/processes.py) and run the same code as the ranks that torchrun starts.

How many there are changes the rounding of sums, so the number is recorded with the saves, and a training that resumes reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from stages.artifacts.checkpoint import PROCESSES, SAVES, STATE
from stages.artifacts.context import StageContext
from stages.artifacts.manifest import Stamp
from stages.artifacts.sequences import Sequences
from stages.core.device import resolve_device
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note
from stages.core.files import disk_errors, read_record, write_record
from stages.core.hardware import threads, usable_cores
from stages.core.memory import available_bytes
from stages.core.processes import Helper
from stages.core.runtime import Launch
from stages.train_model.checkpointing import complete_saves
from stages.train_model.config import TrainConfig
from stages.train_model.distributed.launch import open_store, process_group
from stages.train_model.distributed.ranks import Ranks
from stages.train_model.distributed.trial import StepTrial, compare
from stages.train_model.sections import Sections

MEASURE, TRAIN = "measure", "train"  # what the processes do together
_WORKER = "stages.train_model.distributed.worker"
_MOST = 8  # processes that "auto" tries: each holds torch, the weights and the optimizer
_PROCESS_BYTES = 2**29  # of torch and the rows of a step
# Below this a training is over before processes that take 3 s to start, and a measurement of 3 s, have paid: about half a minute
# on one core.
_LEAST_FLOPS = 2e12
_GAIN = 1.05  # a smaller one may be the noise of the measurement


@dataclass(frozen=True)
class RankJob:
    """What a helper needs to take part. rank: its own, among `count`, each with `threads`. port: of the store."""

    sections: Sections
    sequences: Path
    target: Path
    stamp: Stamp
    seed: int
    count: int
    threads: int
    port: int
    rank: int


@dataclass(frozen=True)
class Plan:
    """count: of the processes. measure: whether it is only tried, against one process."""

    count: int = 1
    measure: bool = False


@contextmanager
def ranks_of(sections: Sections, sequences: Path, context: StageContext) -> Iterator[Ranks]:
    """The ranks of this training, inside the `with` block; processes that are started for it end with the block.

    Raises TfcliError: as `process_group` does, and ENVIRONMENT where a process that was started has exited.
    """
    with ExitStack() as stack:
        plan = plan_processes(sections, sequences, context)
        if plan.count > 1:
            processes = stack.enter_context(_Processes(sections, sequences, context, plan.count))
            if not plan.measure or processes.pay():
                _record(context.build.folder, plan.count)
                yield stack.enter_context(processes.group(TRAIN))
                return
            _record(context.build.folder, 1)
            processes.stop()
        yield stack.enter_context(process_group(context.runtime, sections.train))


def plan_processes(sections: Sections, sequences: Path, context: StageContext) -> Plan:
    """How many processes the training should have, by the recipe, by what it began with, or to be measured."""
    train, runtime, folder = sections.train, context.runtime, context.build.folder
    if runtime.launch.ranks > 1 or train.sharding != "none" or resolve_device(runtime.device).type != "cpu":
        return Plan()
    if train.processes != "auto":
        return Plan(min(train.processes, train.batch_rows))
    most = count_for(train, usable_cores())
    if most == 1:
        return Plan()
    if (recorded := _recorded(folder)) is not None:
        return Plan(min(recorded, most))
    if complete_saves(folder / SAVES) or (folder / STATE).exists():
        return Plan()  # an older tfcli began it, in one process
    weights = sections.model.block_weights
    elements = train.steps * train.batch_rows * Sequences.open(sequences).content.row_length
    # weights, gradients, running average and two slots of the optimizer, in each process
    more_bytes = (most - 1) * (_PROCESS_BYTES + 5 * 4 * weights)
    if 6 * weights * elements < _LEAST_FLOPS or more_bytes > (available_bytes() or math.inf):
        return Plan()
    return Plan(most, measure=True)


def count_for(train: TrainConfig, cores: int) -> int:
    """The fewest processes for which none has more rows than with one process for each core."""
    rows_each = -(-train.batch_rows // min(cores, _MOST))
    return -(-train.batch_rows // rows_each)


class _Processes:
    """The helpers of a training, and this process as the first of their ranks. In the `with` block it has its share of the
    threads."""

    def __init__(self, sections: Sections, sequences: Path, context: StageContext, count: int) -> None:
        self._sections, self._sequences, self._context = sections, sequences, context
        self._runtime = replace(context.runtime, launch=Launch(0, count, 0))
        self._cores = usable_cores()
        self._threads, self._count = max(1, self._cores // count), count
        self._stack = ExitStack()
        self._helpers: list[Helper] = []

    def __enter__(self) -> _Processes:
        context = self._context
        with ExitStack() as stack:
            stack.callback(self._end)
            self._store, port = open_store()
            shared = RankJob(
                self._sections,
                self._sequences,
                context.build.target,
                context.build.stamp,
                context.seed,
                self._count,
                self._threads,
                port,
                rank=0,
            )
            for rank in range(1, self._count):
                self._helpers.append(Helper(_WORKER, "train_rank"))
                self._helpers[-1].send(replace(shared, rank=rank))
            stack.enter_context(threads(self._threads))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the helpers; this process has all threads again."""
        self._stack.close()

    def _end(self) -> None:
        for helper in self._helpers:
            helper.stop()

    def group(self, task: str) -> AbstractContextManager[Ranks]:
        """The ranks for one task, inside the `with` block."""
        self._announce(task)
        return self._join(task)

    def _announce(self, task: str) -> None:
        for helper in self._helpers:
            helper.send(task)

    def _join(self, task: str) -> AbstractContextManager[Ranks]:
        return process_group(self._runtime, self._sections.train, (task, self._store), self._check)

    def pay(self) -> bool:
        """Measure whether steps are faster over all processes than in this one, and report it."""
        self._announce(MEASURE)
        trial = StepTrial(self._sections, self._sequences, self._context.seed)  # while they import torch
        with self._join(MEASURE) as ranks:
            speeds = compare(trial, ranks, self._cores, self._go_on)
        pays = speeds.shared > _GAIN * speeds.alone
        each = f"{self._count} processes of {self._threads} thread{'s' if self._threads > 1 else ''}"
        shared, alone = f"{speeds.shared:.3g} steps/s", f"{speeds.alone:.3g}"
        if pays:
            text = f"{each}: {shared} against {alone} in one process"
        else:
            text = f"one process: {speeds.alone:.3g} steps/s against {speeds.shared:.3g} in {each}"
        self._runtime.report(Note(text))
        return pays

    def _go_on(self) -> None:
        self._runtime.interrupts.check("nothing was started")

    def _check(self) -> None:
        """Raise TfcliError (ENVIRONMENT) where a helper has exited before it took part."""
        gone = [str(rank) for rank, helper in enumerate(self._helpers, 1) if helper.exited]
        if gone:
            why = "killed, or it could not start: its own message is above"
            fix = "run the same command again, or with --set train.processes=1"
            raise TfcliError(
                f"process {', '.join(gone)} of the training exited", why=why, fix=fix, code=ExitCode.ENVIRONMENT
            )


def _recorded(folder: Path) -> int | None:
    """The number of processes that a training began with; None where it is not recorded."""
    path = folder / SAVES / PROCESSES
    try:
        count = read_record(path).get("processes")
    except FileNotFoundError:
        return None
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise TfcliError(f"{path} is damaged", why=f"processes {count}", code=ExitCode.ARTIFACT)
    return count


def _record(folder: Path, count: int) -> None:
    """Record the number of processes, before the first step."""
    with disk_errors(folder / SAVES):
        (folder / SAVES).mkdir(exist_ok=True)
    write_record(folder / SAVES / PROCESSES, {"processes": count})
