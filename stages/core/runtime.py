"""What a running stage gets from outside that cannot change its result: who listens, when to stop, where to compute."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from stages.core.events import Report, silent
from stages.core.interrupts import Interrupts


@dataclass(frozen=True)
class WorkPart:
    """One of `count` processes that share the units of a stage; index counts from 1. 1 of 1 is the whole."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        assert 1 <= self.index <= self.count

    @property
    def whole(self) -> bool:
        return self.count == 1

    def has(self, unit: int) -> bool:
        """Whether unit number `unit` (from 0) falls to this part."""
        return unit % self.count == self.index - 1


@dataclass(frozen=True)
class Launch:
    """This process among the `ranks` of one training, over all machines; local_rank: among those of this machine."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0

    @classmethod
    def found(cls) -> Launch:
        """As torchrun puts it into the environment of the processes it starts; one process without it."""
        values = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
        return cls(*(int(value) for value in values)) if all(value.isdigit() for value in values) else cls()


@dataclass(frozen=True)
class Runtime:
    """report: listener for events. interrupts: the stop flag. device: "auto", "cpu", "cuda", "cuda:0". workers: processes
    for decoding (0: in this process). part: which units this process does. engine: where units run, "local" or "ray".
    retry_failed: units with failures, and damaged ones, of an artifact that is there are made again.
    launch: this process among those of one training. inputs_unchanged: raises TfcliError (INPUT) where a file
    that the stage was named by is another one now; a stage calls it behind its last look at the user's files."""

    report: Report = silent
    interrupts: Interrupts = field(default_factory=Interrupts)
    device: str = "auto"
    workers: int = 2
    part: WorkPart = WorkPart()
    engine: str = "local"
    retry_failed: bool = False
    launch: Launch = Launch()
    inputs_unchanged: Callable[[], None] = lambda: None
