"""Hashes of files that were read before, so that a large source is not read again to know that it is the same.

A list of files is known by what the file system says of each: name, size, inode, times of content and of status. The time of
status (ctime) is set by the kernel alone: a file that is changed and gets its old size and old time back is still noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stages.core.errors import ExitCode, TfcliError
from stages.core.files import write_json
from stages.core.reading import read_bounded
from stages.core.text import printable

Hasher = Callable[[Path, Sequence[str]], tuple[str, bool]]  # the hash, and whether all could be read

_MAX_LISTS = 64
# A file that changed within this time before it was hashed could change again without another time: clocks of file systems
# tick by up to 2 s.
_YOUNG_NS = 3 * 10**9


class KnownHashes:
    """The hashes of lists of files, kept in one small file; without a file nothing is known.

    What cannot be read or written there is a hash that is computed again, never an error.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.seen: list[
            array[int]
        ] = []  # of each list that was asked for: its files as they were before they were read

    def find(self, signature: str) -> str | None:
        """The hash of the list with that signature."""
        found = self._read().get(signature)
        return found if isinstance(found, str) else None

    def keep(self, signature: str, value: str) -> None:
        """Remember a hash, with the latest others."""
        if self._path is None or not self._path.parent.is_dir():
            return
        lists = {**self._read(), signature: value}
        with suppress(TfcliError, OSError):
            write_json(self._path, dict(list(lists.items())[-_MAX_LISTS:]))

    def value_of(self, root: Path, relatives: Sequence[str], hash_all: Hasher) -> str:
        """The hash of a list of files: the one that is known, or the one that `hash_all` makes."""
        seen = self.watch(root, relatives)
        value = self.find(seen.signature)
        if value is None:
            value, readable = hash_all(root, relatives)
            if (
                readable and seen.at_rest and look_at(root, relatives).signature == seen.signature
            ):  # none changed meanwhile
                self.keep(seen.signature, value)
        return value

    def watch(self, root: Path, relatives: Sequence[str]) -> FileStats:
        """Note what the files are before they are read, for `Unchanged`."""
        seen = look_at(root, relatives)
        self.seen.append(seen.stats)
        return seen

    def _read(self) -> dict[str, object]:
        try:
            lists = json.loads(read_bounded(self._path)) if self._path else {}
        except (OSError, ValueError, RecursionError):
            return {}
        return lists if isinstance(lists, dict) else {}


@dataclass(frozen=True)
class FileStats:
    """What the file system said of a list of files. signature: of all, as one hash. at_rest: whether no change since could
    leave it as it is. stats: of each file, 8 bytes of a hash, so that a hundred million files fit into memory."""

    signature: str
    at_rest: bool
    stats: array[int]


def look_at(root: Path, relatives: Sequence[str]) -> FileStats:
    """One `stat` of each file."""
    digest = hashlib.sha256(os.fsencode(os.path.realpath(root)))
    newest = 0
    each = array("Q")
    for relative in relatives:
        try:
            found = os.stat(f"{root}/{relative}")
        except OSError as error:
            stats = f"\0{relative}\0{error.errno}"
        else:
            times = (found.st_mtime_ns, found.st_ctime_ns)
            of_file = (stat.S_IFMT(found.st_mode), found.st_dev, found.st_ino, found.st_size, *times)
            stats = f"\0{relative}\0{of_file}"
            newest = max(newest, *times)
        digest.update(os.fsencode(stats))
        each.frombytes(hashlib.blake2b(os.fsencode(stats), digest_size=8).digest())
    return FileStats(digest.hexdigest(), newest < time.time_ns() - _YOUNG_NS, each)


class Unchanged(KnownHashes):
    """Without hashes: whether the files that an identity is made of are those that `known` saw when it was made. Nothing
    is read but the lists of files."""

    def __init__(self, known: KnownHashes) -> None:
        super().__init__()
        self._then = iter(known.seen)

    def value_of(self, root: Path, relatives: Sequence[str], hash_all: Hasher) -> str:
        del hash_all
        self.watch(root, relatives)
        return ""

    def watch(self, root: Path, relatives: Sequence[str]) -> FileStats:
        """Raises TfcliError (INPUT) naming the first file that is another one now, or that came."""
        then, now = next(self._then, array("Q")), look_at(root, relatives)
        if then != now.stats:
            pairs = enumerate(zip(then, now.stats, strict=False))
            index = next((index for index, (old, new) in pairs if old != new), min(len(then), len(now.stats)))
            counts = f"{len(then):,} files then, {len(now.stats):,} now" if len(then) != len(now.stats) else ""
            raise changed_during_read(root / relatives[index] if index < len(relatives) else root, counts)
        return now


def changed_during_read(path: Path, more: str = "") -> TfcliError:
    """A file of a source is not what it was when the source was hashed: what was made of it would have a wrong name."""
    why = "its size, times or inode are not what they were when the source was hashed or its reading began"
    return TfcliError(
        f"{printable(str(path))}: CHANGED_DURING_READ",
        why=f"{why}; {more}" if more else why,
        fix="run the same command again when the source is at rest",
        code=ExitCode.INPUT,
    )
