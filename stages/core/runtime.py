"""What a running stage gets from outside that cannot change its result: who listens, when to stop, where to compute."""

from __future__ import annotations

from dataclasses import dataclass, field

from stages.core.events import Report, silent
from stages.core.interrupts import Interrupts


@dataclass(frozen=True)
class Runtime:
    """report: listener for events. interrupts: the stop flag. device: "auto", "cpu", "cuda", "cuda:0". workers: processes
    for decoding (0: in this process)."""

    report: Report = silent
    interrupts: Interrupts = field(default_factory=Interrupts)
    device: str = "auto"
    workers: int = 2
