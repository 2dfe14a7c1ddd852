"""What a running stage gets from outside that cannot change its result: who listens, when to stop, where to compute."""

from __future__ import annotations

from dataclasses import dataclass, field

from stages.core.events import Report, silent
from stages.core.interrupts import Interrupts


@dataclass(frozen=True)
class Part:
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
class Runtime:
    """report: listener for events. interrupts: the stop flag. device: "auto", "cpu", "cuda", "cuda:0". workers: processes
    for decoding (0: in this process). part: which units this process does. engine: where units run, "local" or "ray".
    retry_failed: units with failures, and damaged ones, of an artifact that is there are made again."""

    report: Report = silent
    interrupts: Interrupts = field(default_factory=Interrupts)
    device: str = "auto"
    workers: int = 2
    part: Part = Part()
    engine: str = "local"
    retry_failed: bool = False
