"""The lock next to an artifact's folder: one process makes it, or parts of one work on it together."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import stat
from io import TextIOWrapper
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
        self._file = open_lock(target.with_name(f".{target.name}.lock"))

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
        """Share the lock with other parts; False where another process holds it alone."""
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


_OURS = re.compile(rb"((whole run|part), pid \d+ on .{0,300})?", re.DOTALL)


def open_lock(path: Path) -> TextIOWrapper:
    """A file for flock, made where it is missing. Raises TfcliError (ENVIRONMENT) for a link, a pipe or a file of somebody else:
    a lock is written over."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with disk_errors(path):
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise _foreign(path) from error
            raise
        plain = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if not plain or not _OURS.fullmatch(os.pread(descriptor, 1000, 0)):
            os.close(descriptor)
            raise _foreign(path)
        return open(descriptor, "a+")


def _foreign(path: Path) -> TfcliError:
    why = "tfcli locks a plain file of its own there, and this is another one, a link or a pipe"
    return TfcliError(f"{path} is not a lock", why=why, fix="move it away", code=ExitCode.ENVIRONMENT)
