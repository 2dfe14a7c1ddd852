"""What the system refuses, as failures for the user: an OSError of any number, and memory that cannot be had.

The exit code is ENVIRONMENT: the disk, the mount, the rights or the memory are at fault, not the program. No other file
decides which of these errors is which.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from stages.core.errors import ExitCode, TfcliError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_OTHER_PLACE = (*_NOT_ALLOWED, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST)
# The name leads to no file: of an artifact's own file that is damage, of a name that a user gave a mistake in it.
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.EFBIG)
_AGAIN = "check the disk or the mount that holds it, then run the same command again"
_TOO_MANY = (errno.EMFILE, errno.ENFILE)


def write_failure(path: Path, error: OSError) -> TfcliError:
    """An OSError of writing, making or replacing `path`."""
    full = error.errno in _FULL
    fix = "give --work a folder you may write" if error.errno in _OTHER_PLACE else _fix(error)
    why = f"{system_word(error)}{_free(path) if full else ''}"
    return TfcliError(f"cannot write {path}", why=why, fix=fix, code=ExitCode.ENVIRONMENT)


def read_failure(path: Path, error: OSError, code: ExitCode = ExitCode.ENVIRONMENT) -> TfcliError:
    """An OSError of reading `path`. code: INPUT for a file of the user's data."""
    return TfcliError(f"cannot read {path}", why=system_word(error), fix=_fix(error), code=code)


def refuse_unreadable(path: Path, error: BaseException) -> None:
    """Raise the ENVIRONMENT failure where the system does not let us read `path`. What is left is the caller's: a file that is
    not there, or that holds something else. The file is opened once more, as libraries hide the reason (safetensors calls
    each file that it cannot open missing)."""
    if isinstance(error, OSError) and error.errno not in (None, *_NO_FILE):
        raise read_failure(path, error) from error
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except (OSError, ValueError) as found:  # ValueError: NUL in the name
        if isinstance(found, OSError) and found.errno not in _NO_FILE:
            raise read_failure(path, found) from error


def system_failure(error: BaseException) -> TfcliError | None:
    """The failure that any error of the system is; None for an error of another kind."""
    if isinstance(error, OSError):
        return _file_failure(error)
    size = memory_refused(error)
    if size is None:
        return None
    return TfcliError(
        "out of memory" if not size else f"out of memory: {size} could not be allocated",
        why=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300],
        fix="use a smaller model, smaller batches (--set) or fewer --workers",
        code=ExitCode.ENVIRONMENT,
    )


def memory_refused(error: BaseException) -> str | None:
    """What was asked for where `error` says that memory was refused ("" where it does not say how much); None for another
    error. torch is not imported here: on a GPU it raises a class of its own, on a CPU a RuntimeError known by its text."""
    text = str(error)
    on_cpu = isinstance(error, RuntimeError) and re.search(r"can't allocate memory|bad_alloc|not enough memory", text)
    if not (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or on_cpu):
        return None
    in_bytes = re.search(r"tried to allocate (\d+) bytes", text)
    if in_bytes:
        return f"{int(in_bytes[1]):,} bytes"
    found = re.search(r"(?:allocate|[Tt]ried to allocate) ([\d.]+ ?[KMGTP]iB)", text)
    return found[1] if found else ""


def system_word(error: OSError) -> str:
    """What the system calls the error, as "Input/output error"."""
    return error.strerror or " ".join(str(error).split())[:200] or type(error).__name__


def _file_failure(error: OSError) -> TfcliError:
    """An OSError that nobody on the way has named: the path is the one that the error has."""
    named = error.filename2 or error.filename
    where = os.fsdecode(named)[:300] if isinstance(named, (str, bytes)) else ""
    word = system_word(error)
    if error.errno in _FULL:
        what = f"no space on the disk: {where}" if where else "no space on the disk"
    elif error.errno in _NOT_ALLOWED:
        what = f"not allowed: {where or word}"
    elif error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        what = f"not a usable path: {word}: {where}" if where else f"not a usable path: {word}"
        return TfcliError(what, fix="give another path", code=ExitCode.USAGE)
    else:
        what = f"the system refused an operation on {where or 'a file'}"
    return TfcliError(what, why=word, fix=_fix(error), code=ExitCode.ENVIRONMENT)


def _fix(error: OSError) -> str:
    if error.errno in _FULL:
        return "free some space, then run the same command again"
    if error.errno in _NOT_ALLOWED:
        return "check the owner and the mode of that path"
    if error.errno in _TOO_MANY:
        return "raise the limit of open files ('ulimit -n'), then run the same command again"
    return _AGAIN


def _free(path: Path) -> str:
    """The free space where `path` is, for a message; empty where even that is refused."""
    for folder in (path, *path.parents):
        try:  # not Path.exists: that one raises PermissionError below a folder that may not be entered
            return f"; {shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free there"
        except OSError:
            continue
    return ""
