"""What a power cut leaves of a folder: of files that were never flushed nothing but the name; of names in folders that were
never flushed not even that on a strict disk, while most journals keep them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


class Disk:
    """Follows what is flushed below `folder`. Before each flush the power is cut in a copy: `cuts/0`, `cuts/1`, ..., one for each
    state that a cut can leave (most flushes leave the one that the flush before left). strict: names are lost that were not
    flushed."""

    def __init__(self, folder: Path, cuts: Path, patch: pytest.MonkeyPatch, *, strict: bool) -> None:
        self.count = 0
        self._strict = strict
        self.lost: list[str] = []  # each thing that any cut took
        self._folder = folder
        self._cuts = cuts
        self._content: dict[int, tuple[int, int]] = {}  # of files, by inode, when they were flushed: size, time
        self._names: dict[int, set[str]] = {}  # of folders, by inode: what they held
        self._left: set[str] = set()  # digests of the states of the copies
        self._hashes: dict[tuple[int, int, int], str] = {}  # of files, by inode, size and time
        for path in [folder, *folder.rglob("*")]:
            self._flushed(path)
        patch.setattr(os, "fsync", self._fsync)

    def cut(self) -> None:
        """Cut the power now, in a copy."""
        lost, emptied = list(self._lost_names(self._folder)) if self._strict else [], []
        for path in self._folder.rglob("*"):
            if path.is_file() and self._content.get(path.stat().st_ino) != _facts(path):
                emptied.append(path)
        self.lost += [path.name for path in (*lost, *emptied)]
        state = self._state({*lost}, {*emptied})
        if state in self._left:
            return
        self._left.add(state)
        copy = self._cuts / str(self.count)
        shutil.copytree(self._folder, copy)
        for path in emptied:
            (copy / path.relative_to(self._folder)).write_bytes(b"")
        for path in lost:
            there = copy / path.relative_to(self._folder)
            shutil.rmtree(there) if there.is_dir() else there.unlink(missing_ok=True)
        self.count += 1

    def _state(self, lost: set[Path], emptied: set[Path]) -> str:
        """A digest of the names and bytes that a cut leaves."""
        found = hashlib.sha256()
        folders = [self._folder]
        while folders:
            for path in sorted(folders.pop().iterdir()):
                if path in lost:
                    continue
                found.update(f"{path.relative_to(self._folder)}\0".encode())
                if path.is_dir():
                    folders.append(path)
                else:
                    found.update(b"" if path in emptied else self._hash(path).encode())
        return found.hexdigest()

    def _hash(self, path: Path) -> str:
        key = (path.stat().st_ino, *_facts(path))
        if key not in self._hashes:
            self._hashes[key] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._hashes[key]

    def _fsync(self, descriptor: int) -> None:
        self.cut()
        self._flushed(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    def _flushed(self, path: Path) -> None:
        if path.is_dir():
            self._names[path.stat().st_ino] = set(os.listdir(path))
        else:
            self._content[path.stat().st_ino] = _facts(path)

    def _lost_names(self, folder: Path) -> Iterator[Path]:
        known = self._names.get(folder.stat().st_ino, set())
        for entry in os.scandir(folder):
            if entry.name not in known:  # what was put in place of another file is the old one or the new one
                yield Path(entry.path)
            elif entry.is_dir():
                yield from self._lost_names(Path(entry.path))


def _facts(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns
