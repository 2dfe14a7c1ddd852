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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stages.core.errors import TfcliError
from stages.core.files import write_json

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

    def find(self, signature: str) -> str | None:
        """The hash of the list with that signature."""
        found = self._read().get(signature)
        return found if isinstance(found, str) else None

    def keep(self, signature: str, value: str) -> None:
        """Remember a hash, beside the latest others."""
        if self._path is None or not self._path.parent.is_dir():
            return
        lists = {**self._read(), signature: value}
        with suppress(TfcliError, OSError):
            write_json(self._path, dict(list(lists.items())[-_MAX_LISTS:]))

    def _read(self) -> dict[str, object]:
        try:
            lists = json.loads(self._path.read_bytes()) if self._path else {}
        except (OSError, ValueError, RecursionError):
            return {}
        return lists if isinstance(lists, dict) else {}


def signature_of(root: Path, relatives: Sequence[str]) -> tuple[str, bool]:
    """What the file system says of the files, as one hash; and whether all of them are at rest, so that no change since could
    leave it as it is."""
    digest = hashlib.sha256(os.fsencode(os.path.realpath(root)))
    newest = 0
    for relative in relatives:
        try:
            found = os.stat(f"{root}/{relative}")
        except OSError as error:
            digest.update(os.fsencode(f"\0{relative}\0{error.errno}"))
            continue
        times = (found.st_mtime_ns, found.st_ctime_ns)
        facts = (stat.S_IFMT(found.st_mode), found.st_dev, found.st_ino, found.st_size, *times)
        digest.update(os.fsencode(f"\0{relative}\0{facts}"))
        newest = max(newest, *times)
    return digest.hexdigest(), newest < time.time_ns() - _YOUNG_NS
