"""The lock beside an artifact's folder: one process makes it, or parts of one work on it together."""

from __future__ import annotations

import fcntl
import os
import platform
from pathlib import Path

from stages.core.errors import ExitCode, TfcliError
from stages.core.files import disk_errors


class Lock:
    """The lock of a target: held alone by a whole run, or shared by parts of one."""

    def __init__(self, target: Path, who: str) -> None:
        """who: "whole run" or "part", for others to read while this process holds the lock alone."""
        self.target = target
        self.who = who
        self.alone = False
        path = target.with_name(f".{target.name}.lock")
        with disk_errors(path):
            self._file = path.open("a+")

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def take_alone(self) -> bool:
        """Give up a share and hold the lock alone; False, and no share, where others hold one."""
        # first the share: of two parts that end together, each would else see the share of the other
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self.alone = self._take(fcntl.LOCK_EX)
        if self.alone:
            self._file.truncate(0)
            self._file.write(f"{self.who}, pid {os.getpid()} on {platform.node()}")
            self._file.flush()
        return self.alone

    def share(self) -> bool:
        """Hold the lock beside other parts; False where somebody holds it alone."""
        self.alone = False
        return self._take(fcntl.LOCK_SH)

    def holder(self) -> str:
        """Who held the lock alone last."""
        self._file.seek(0)
        return self._file.read().strip()

    def taken(self) -> TfcliError:
        return TfcliError(
            f"{self.target} is being made by another process",
            why=f"last begun by: {self.holder() or 'unknown'}",
            fix="wait for it, or stop it",
            code=ExitCode.ENVIRONMENT,
        )

    def _take(self, how: int) -> bool:
        try:
            fcntl.flock(self._file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
