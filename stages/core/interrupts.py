"""Signals: SIGTERM, SIGHUP and Ctrl-C set a flag that every long loop polls; a second Ctrl-C ends the process at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from stages.core.errors import ExitCode, TfcliError


class Interrupts:
    """The flag. `requested` says that the user or the scheduler wants the process to stop."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._at_once: str | None = None

    @property
    def requested(self) -> bool:
        return self.signal_number is not None

    def check(self, saved: str = "finished shards are kept") -> None:
        """Raise TfcliError (75 for SIGTERM/SIGHUP, 130 for Ctrl-C) if a stop was asked for."""
        if self.signal_number is not None:
            raise stopped_by(self.signal_number, saved)

    @contextmanager
    def at_once(self, saved: str = "nothing was begun") -> Iterator[None]:
        """Inside the block a signal raises where it meets the code: for long work without state, such as hashing."""
        self.check(saved)
        self._at_once = saved
        try:
            yield
        finally:
            self._at_once = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_number == signal.SIGINT and number == signal.SIGINT:
            os._exit(int(ExitCode.INTERRUPTED))
        self.signal_number = number
        if self._at_once is not None:
            self.check(self._at_once)


def stopped_by(number: int, saved: str) -> TfcliError:
    """The failure that a signal is: 75 for SIGTERM and SIGHUP, 130 for Ctrl-C. saved: what is kept."""
    code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
    name = signal.Signals(number).name
    return TfcliError(f"stopped by {name}", why=saved, fix="run the same command again to go on", code=code)


@contextmanager
def watch_signals() -> Iterator[Interrupts]:
    """Install the handlers for the life of the block (only in the main thread) and restore the old ones. A signal that was
    ignored when the process began stays ignored: 'nohup tfcli train &' outlives its terminal."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    numbers = [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, interrupts._handle) for number in numbers}
    try:
        yield interrupts
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
