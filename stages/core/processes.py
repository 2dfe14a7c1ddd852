"""Worker processes: the one place that says how they are started. Always by a fork server: a plain fork copies locks that
other threads hold."""

from __future__ import annotations

import os
import shutil
import tempfile
from multiprocessing import get_context, process, util
from multiprocessing.context import ForkServerContext
from pathlib import Path
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
