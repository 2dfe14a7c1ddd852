"""The members of one tar file, from its headers alone: nothing is read into memory, decompressed or written to disk.

Made for hostile archives: header reads are bounded in size and number, and an archive that was cut is an error, never a
shorter data set (Python's tarfile and webdataset both take a cut at a header for the end).
"""

from __future__ import annotations

import errno
import os
import re
import tarfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stages.core.errors import TfcliError
from stages.core.reading import open_plain
from stages.core.text import printable
from stages.sources.document import Omission
from stages.sources.files import reading

_BLOCK = 512
_PIECE = 1 << 20
_MAX_HEADER_BYTES = 1 << 20  # long names and extended headers; a real one has a few hundred bytes
_MAX_NAME_CHARS = 1024
_COMPRESSED = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))


class TarTruncated(Exception):
    """The archive ends early or its headers are damaged from some point on. behind_end: all that is before is whole."""

    def __init__(self, message: str, behind_end: bool = False) -> None:
        super().__init__(message)
        self.behind_end = behind_end


@dataclass(frozen=True)
class Member:
    """A plain file in the archive: `size` bytes from `offset` of the tar file."""

    name: str
    offset: int
    size: int


class _Headers:
    """The view of a tar file that tarfile gets: small reads only, and not more of them than the file has blocks."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path = path
        self._file = file
        self._reads_left = 2 * (size // _BLOCK) + 16

    def read(self, size: int = -1) -> bytes:
        self._reads_left -= 1
        if not 0 <= size <= _MAX_HEADER_BYTES or self._reads_left < 0:
            raise tarfile.ReadError("a header that is too large, or that leads in a circle")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def members(path: Path) -> Iterator[Member | Omission]:
    """Plain files in the order of the archive; links, devices and unsafe names as Omissions; TarTruncated at a cut.

    Behind the end of an archive another one may follow (`cat a.tar b.tar`): it is read as well. Zeros may follow; anything else
    is TarTruncated with the byte.
    """
    with reading(path), open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        _check_start(path, file)
        headers = _Headers(path, file, size)
        start: int | None = 0
        while start is not None:
            end = yield from _archive(headers, start, size)
            # tarfile ends quietly at a damaged header; a whole archive ends with two blocks of zeros
            file.seek(end)
            if file.read(2 * _BLOCK) != bytes(2 * _BLOCK):
                raise TarTruncated(f"no end mark at byte {end:,}")
            start = _behind_zeros(file)


def _archive(headers: _Headers, start: int, size: int) -> Generator[Member | Omission, None, int]:
    """The members of the archive that starts at a byte of the file; returns where its end mark should be."""
    try:
        headers.seek(start)
        file: Any = headers
        # "r:" only: "r:*" would decompress whatever calls itself .tar
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (it owns nothing: `members` closes the file)
        reached = start - 1
        while (info := archive.next()) is not None:
            if info.offset <= reached or info.offset_data + max(info.size, 0) > size or info.size < 0:
                raise TarTruncated(f"{printable(info.name)} claims {info.size:,} bytes, more than the file has")
            reached = info.offset
            yield _member(headers.path, info)
            archive.members = []  # type: ignore[attr-defined]  # it keeps all headers otherwise
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, OSError) as error:
        # EINVAL: a seek to a damaged place
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise TarTruncated(f"{type(error).__name__}: {error}") from error
    if start and reached < start:  # tarfile takes a block that is no header for the end
        what = f"behind the end mark of an archive, at byte {start:,}, is something that is no archive"
        raise TarTruncated(what, behind_end=True)
    return archive.offset


def _behind_zeros(file: BinaryIO) -> int | None:
    """The block of the next byte that is not zero; None where the file ends without one."""
    offset = file.tell()
    while block := file.read(_PIECE):
        rest = block.lstrip(b"\0")
        if rest:
            byte = offset + len(block) - len(rest)
            return byte // _BLOCK * _BLOCK
        offset += len(block)
    return None


def _check_start(path: Path, file: BinaryIO) -> None:
    start = file.read(6)
    file.seek(0)
    for magic, name in _COMPRESSED:
        if start.startswith(magic):
            raise TfcliError(
                f"{printable(str(path))} is compressed ({name})",
                why="pictures are read from their place in the tar, which compression hides",
                fix=f"decompress it first: {'gunzip' if name == 'gzip' else name + ' -d'} FILE",
            )


def _member(path: Path, info: tarfile.TarInfo) -> Member | Omission:
    key = f"{path.name}:{info.offset}"
    where = f"{path.name}/{info.name}"
    unsafe = (
        len(info.name) > _MAX_NAME_CHARS
        or "\x00" in info.name
        or info.name.startswith("/")
        or ".." in re.split(r"[/\\]", info.name)
    )
    if unsafe:
        return Omission(key, where[:_MAX_NAME_CHARS], "UNSAFE_NAME", "an absolute, climbing or absurd name")
    if info.isdir() or (info.isreg() and not info.issparse()):
        return Member(info.name, info.offset_data, -1 if info.isdir() else info.size)
    return Omission(key, where, "SKIPPED_SPECIAL", "a link, a device or a sparse file")
