"""A file is the old one or the new one, no temporary file stays, and a full disk is told as such."""

from __future__ import annotations

import errno
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.core.files import disk_errors, read_jsonl, require_space, write_atomic, write_json, write_jsonl


def test_write_atomic_replaces_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    for data in (b"old", b"", b"new"):
        write_atomic(tmp_path / "f", data)
        assert (tmp_path / "f").read_bytes() == data
        assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("place", ["os.fsync", "os.replace"])
def test_a_failure_in_the_middle_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_atomic(tmp_path / "f", b"old")
    monkeypatch.setattr(f"stages.core.files.{place}", full)
    with pytest.raises(TfcliError, match="cannot write") as caught:
        write_atomic(tmp_path / "f", b"new")
    assert caught.value.code == ExitCode.ENVIRONMENT == 5
    assert "MiB are free" in caught.value.why
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_reader_never_sees_a_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    replace = os.replace

    def look(source: Path, target: Path) -> None:
        seen.append((Path(target).read_bytes(), Path(source).read_bytes()))
        replace(source, target)

    write_atomic(tmp_path / "f", b"old")
    monkeypatch.setattr("stages.core.files.os.replace", look)
    write_atomic(tmp_path / "f", b"new")
    assert seen == [(b"old", b"new")]


@pytest.mark.parametrize("number", sorted(set(errno.errorcode) - {errno.EPIPE, errno.ESHUTDOWN}))
def test_disk_errors_become_code_5_with_a_fix(tmp_path: Path, number: int) -> None:
    """Of every number that the system knows; a broken pipe is a process that went away."""
    with pytest.raises(TfcliError) as caught, disk_errors(tmp_path / "not" / "there"):
        raise OSError(number, os.strerror(number))
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert caught.value.what == f"cannot write {tmp_path / 'not' / 'there'}"
    assert caught.value.why.startswith(os.strerror(number))
    full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    assert ("free some space" in caught.value.fix) == full


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), disk_errors(tmp_path):
        raise BrokenPipeError(errno.EPIPE, "gone")
    with pytest.raises(KeyError), disk_errors(tmp_path):
        raise KeyError


def test_a_file_in_place_of_a_folder_is_code_5(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(TfcliError) as caught:
        write_atomic(tmp_path / "f" / "g", b"")
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_a_folder_that_may_not_be_entered_is_code_5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, who may enter every folder: `stat` stands in for one that may not."""
    locked = tmp_path / "locked"
    stat = os.stat

    def refuse(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(f"{locked}/"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return stat(path, *arguments, **options)

    locked.mkdir()
    monkeypatch.setattr("os.stat", refuse)
    with pytest.raises(TfcliError) as caught, disk_errors(locked / "sub" / "f"):
        os.stat(locked / "sub")
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_json_lines_come_back_and_a_broken_one_is_named(tmp_path: Path) -> None:
    rows: list[Any] = [{"a": "\u00e9\n"}, ["\udcff"], None, 1.5]
    write_jsonl(tmp_path / "f", rows)
    assert list(read_jsonl(tmp_path / "f")) == rows
    with (tmp_path / "f").open("ab") as file:
        file.write(b'{"half')
    with pytest.raises(TfcliError, match=r"f:5: not JSON") as caught:
        list(read_jsonl(tmp_path / "f"))
    assert caught.value.code == ExitCode.ARTIFACT


def test_many_json_lines_are_not_held_in_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    write_jsonl(tmp_path / "f", ({"text": f"{number} {'x' * 1000}"} for number in range(3000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "f").stat().st_size > 3_000_000
    assert peak < 500_000


def test_nan_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "f", [float("nan")])
    with pytest.raises(ValueError, match="JSON compliant"):
        write_jsonl(tmp_path / "f", [1.5, float("nan")])
    assert list(tmp_path.iterdir()) == []


def test_too_little_space_is_told_before_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 0, 1100))  # type: ignore[attr-defined]
    require_space(tmp_path, 1000, "the latents")
    with pytest.raises(TfcliError, match=r"the latents take 1,001 bytes, 1,100 are free at ") as caught:
        require_space(tmp_path, 1001, "the latents")
    assert caught.value.code == ExitCode.ENVIRONMENT
