"""Failures that a user can act on: what happened, why, how to fix it, and the exit code of the process."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every `tfcli` command."""

    DONE = 0
    BUG = 1
    USAGE = 2  # a flag or a recipe is wrong
    INPUT = 3  # the user's data cannot be used
    ARTIFACT = 4  # an artifact is corrupt, incomplete or does not fit
    ENVIRONMENT = 5  # disk, memory, device, missing extra
    DIVERGED = 6  # training produced non-finite numbers
    TERMINATED = 75  # SIGTERM or SIGHUP, state saved, run again to go on
    INTERRUPTED = 130  # Ctrl-C


class TfcliError(Exception):
    """A failure for the user. `what` names the path or the key; `why` and `fix` are one line each, and notes of the exception,
    which a traceback shows."""

    def __init__(self, what: str, *, why: str = "", fix: str = "", code: ExitCode = ExitCode.INPUT) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
        self.code = code
        for name, line in (("why", why), ("fix", fix)):
            if line:
                self.add_note(f"{name}: {line}")
