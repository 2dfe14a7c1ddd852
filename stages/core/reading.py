"""Reading by names that others could have made: plain files only, without blocking, up to a limit; names that stay inside a
folder. Every file that the tool reads is opened here or by `hash_file`, which uses it."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from stages.core.errors import ExitCode, TfcliError
from stages.core.system import read_failure, system_word

MAX_SMALL_BYTES = 1 << 30  # of a file that is read whole: a manifest of millions of files has some hundred MB


class NotPlainFile(OSError):
    """The name belongs to a pipe, a socket, a device, a folder, or (where links are refused) a symbolic link."""


def open_plain(path: Path | str, *, links: bool = True) -> BinaryIO:
    """Open a plain file for reading; never waits for a pipe, never reads a device. links: whether `path` may be a symbolic link.

    Raises NotPlainFile, or another OSError where it cannot be opened.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP and not links and os.path.islink(path):
            raise NotPlainFile(error.errno, "a symbolic link", str(path)) from error
        if error.errno == errno.ENXIO:  # a socket
            raise NotPlainFile(error.errno, "not a plain file", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotPlainFile(errno.EINVAL, "not a plain file", str(path))
    return cast(BinaryIO, os.fdopen(descriptor, "rb"))


def read_bounded(path: Path | str, limit: int = MAX_SMALL_BYTES, *, links: bool = True) -> bytes:
    """The bytes of a plain file of at most `limit` bytes. Raises OSError (EFBIG) for a larger one, and as `open_plain` does."""
    with open_plain(path, links=links) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit:,} bytes", str(path))
    return data


def unreadable(path: Path, error: OSError) -> TfcliError:
    """What an OSError of reading one of our files means: ARTIFACT for a name that is no plain file, gone or too large, else
    ENVIRONMENT with the system's word."""
    gone = (errno.EFBIG, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
    if isinstance(error, NotPlainFile) or error.errno in gone:
        return TfcliError(f"{path} cannot be used", why=system_word(error), code=ExitCode.ARTIFACT)
    return read_failure(path, error)


def safe_name(name: str) -> str:
    """`name` if it is a relative path that stays inside its folder. Raises ValueError that says why not."""
    path = PurePosixPath(name)
    if not path.parts or "\x00" in name or name != str(path):
        raise ValueError("not a plain relative path")
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("it leads out of the folder")
    if any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise ValueError("a name of more than 255 bytes")
    return name


def inside(folder: Path, name: str) -> Path:
    """The path of a file of `folder` by a name that others could have made, after a look that no symbolic link is on the way
    (the folder itself may be one). Raises TfcliError (ARTIFACT)."""
    try:
        path = folder
        for part in PurePosixPath(safe_name(name)).parts:
            path = path / part
            if path.is_symlink():
                raise ValueError(f"{part} is a symbolic link")
    except ValueError as error:
        what = f"{folder} names a file that may be outside of it: {_shown(name)}"
        fix = "do not use this folder, or make it again with --force"
        raise TfcliError(what, why=str(error), fix=fix, code=ExitCode.ARTIFACT) from error
    return path


def _shown(name: str) -> str:
    return re.sub(r"[^ -~]", "?", name)[:200]
