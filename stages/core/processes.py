"""Worker processes: the one place that says how they are started. Always by a fork server: a plain fork copies locks that
other threads hold. A `Helper` is one that works for this process and ends with it."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from contextlib import suppress
from importlib import import_module
from multiprocessing import get_context, process, util
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from threading import Thread
from typing import Any

from stages.core.errors import ExitCode, TfcliError

# Of the path of a socket the system takes 107 bytes. multiprocessing makes `TMPDIR/pymp-12345678/listener-12345678` of it,
# Ray `TMPDIR/ray/session_DATE_TIME_NUMBER_PID/sockets/plasma_store`.
_LONGEST = 107
_ADDED = len("/pymp-12345678/listener-12345678")
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def forkserver() -> ForkServerContext:
    """The context of all worker processes. Where the name of TMPDIR is too long for a socket, they are in a folder of their
    own below /tmp, which goes with this process. Raises TfcliError (ENVIRONMENT) where there is no such place."""
    config: dict[str, Any] = process.current_process()._config  # type: ignore[attr-defined]
    if config.get("tempdir") is None and (short := short_folder(_ADDED)) is not None:
        made = tempfile.mkdtemp(prefix="pymp-", dir=short)
        util.Finalize(None, shutil.rmtree, args=(made, True), exitpriority=-100)
        config["tempdir"] = made
    return get_context("forkserver")


def short_folder(added: int) -> str | None:
    """A folder for sockets where that of temporary files, and `added` bytes more, are too long for one; None where they fit."""
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) + added <= _LONGEST:
        return None
    for folder in _SHORT_FOLDERS:
        if Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise TfcliError(
        f"TMPDIR is too long for a socket: {usual}",
        why=f"its name and {added} bytes more have to fit into {_LONGEST}, and none of {', '.join(_SHORT_FOLDERS)} can be used",
        fix="set TMPDIR to a folder with a shorter name",
        code=ExitCode.ENVIRONMENT,
    )


class Helper:
    """A process that works for this one. It ignores signals, which reach the whole group and are handled by this process alone,
    and it ends when this one does, however that happens. pipe: to it."""

    def __init__(self, module: str, function: str) -> None:
        """module: the process imports it and calls its `function` with its end of the pipe."""
        context = forkserver()
        self.pipe, theirs = context.Pipe()
        watched, self._lifeline = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(theirs, watched, module, function), daemon=True)
        self._process.start()
        theirs.close()
        watched.close()

    def send(self, value: object) -> None:
        """Send it something; nothing happens where it has exited, which `exited` finds."""
        with suppress(OSError):
            self.pipe.send(value)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def exited(self) -> bool:
        return self._process.exitcode is not None

    def stop(self) -> None:
        """End it at once, whatever it does."""
        self._process.kill()
        self._process.join()
        self.pipe.close()
        self._lifeline.close()


def _serve(pipe: Connection, lifeline: Connection, module: str, function: str) -> None:
    """In a helper. The module is imported last: torch takes seconds, in which the other process may exit."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    Thread(target=_exit_after, args=(lifeline,), daemon=True).start()
    getattr(import_module(module), function)(pipe)


def _exit_after(lifeline: Connection) -> None:
    """End this process when the other one has: then nobody holds the other end of the pipe."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)
