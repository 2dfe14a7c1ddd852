"""Hashes are taken from memory only where the file system shows that no file has changed, and are those of the content."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from stages.sources import files
from stages.sources.files import files_hash
from stages.sources.hash_cache import KnownHashes, look_at

NAMES = ["a", "b"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files that have been at rest for a minute (the clock has gone on)."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(name.encode() * 10)
    later(monkeypatch)
    return folder


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    monkeypatch.setattr("stages.sources.hash_cache.time.time_ns", lambda: now() + 60 * 10**9)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read."""
    seen: list[str] = []
    real = files.hash_file

    def hash_file(path: Path) -> str:
        seen.append(path.name)
        return real(path)

    monkeypatch.setattr(files, "hash_file", hash_file)
    return seen


def test_files_at_rest_are_read_once(root: Path, tmp_path: Path, read: list[str]) -> None:
    first = files_hash(root, NAMES, KnownHashes(tmp_path / "known.json"))
    assert files_hash(root, NAMES, KnownHashes(tmp_path / "known.json")) == first
    assert read == NAMES
    assert first == files_hash(root, NAMES)  # the hash that it always was


def changed(path: Path) -> None:
    path.write_bytes(b"B" * 10)


def changed_with_its_old_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"B" * 10)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def replaced_by_another(path: Path) -> None:
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"B" * 10)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [changed, changed_with_its_old_time, replaced_by_another, Path.unlink])
def test_every_change_is_noticed(root: Path, tmp_path: Path, change: Any) -> None:
    known = KnownHashes(tmp_path / "known.json")
    before = files_hash(root, NAMES, known)
    change(root / "b")
    assert files_hash(root, NAMES, known) == files_hash(root, NAMES) != before


def test_another_list_is_another_hash(root: Path, tmp_path: Path) -> None:
    known = KnownHashes(tmp_path / "known.json")
    lists = [["a", "b"], ["a"], ["b", "a"], []]
    assert [files_hash(root, names, known) for names in lists] == [files_hash(root, names) for names in lists]
    assert len({files_hash(root, names, known) for names in lists}) == 4


def test_files_that_have_just_been_written_are_not_trusted(tmp_path: Path) -> None:
    """Within a tick of the clock a file can change again and keep its times."""
    (tmp_path / "a").write_bytes(b"x")
    known = KnownHashes(tmp_path / "known.json")
    files_hash(tmp_path, ["a"], known)
    assert not (tmp_path / "known.json").exists()
    os.utime(tmp_path / "a", (4e9, 4e9))  # a time in the future says nothing
    assert not look_at(tmp_path, ["a"]).at_rest


def test_a_file_that_changes_while_it_is_read_is_not_trusted(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = files.hash_file

    def slow(path: Path) -> str:
        found = real(path)
        (root / "a").write_bytes(b"changed")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(files, "hash_file", slow)
        files_hash(root, NAMES, KnownHashes(tmp_path / "known.json"))
    assert not (tmp_path / "known.json").exists()


def test_what_could_not_be_read_is_tried_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was away for a moment."""

    def away(_path: Path) -> str:
        raise OSError("Input/output error")

    known = KnownHashes(tmp_path / "known.json")
    with monkeypatch.context() as patch:
        patch.setattr(files, "hash_file", away)
        files_hash(root, NAMES, known)
    assert files_hash(root, NAMES, known) == files_hash(root, NAMES)


@pytest.mark.parametrize("content", [b"", b"[]", b"nonsense", b'{"x": 3}'])
def test_a_damaged_memory_is_no_memory(root: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "known.json").write_bytes(content)
    known = KnownHashes(tmp_path / "known.json")
    assert files_hash(root, NAMES, known) == files_hash(root, NAMES)
    assert look_at(root, NAMES).signature in json.loads((tmp_path / "known.json").read_bytes())


def test_only_the_latest_are_kept(tmp_path: Path) -> None:
    known = KnownHashes(tmp_path / "known.json")
    for number in range(70):
        known.keep(str(number), "hash")
    assert (known.find("5"), known.find("6"), known.find("69")) == (None, "hash", "hash")
