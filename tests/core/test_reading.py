"""Names that others could have made: only plain files are read, within bounds, and only inside their folder."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.core.files import read_json, read_jsonl, read_record, write_json, write_record
from stages.core.hashing import hash_file
from stages.core.reading import NotPlainFile, inside, open_plain, read_bounded, safe_name


def odd_files(folder: Path) -> list[Path]:
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "zero").symlink_to("/dev/zero")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(folder / "socket"))
    bound.close()
    return [folder / name for name in ("pipe", "folder", "zero", "socket")]


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    for path in odd_files(tmp_path):
        for read in (open_plain, read_bounded, hash_file):
            with pytest.raises(NotPlainFile):
                read(path)
        for check in (read_json, read_record, lambda path: list(read_jsonl(path))):
            with pytest.raises(TfcliError, match="cannot be used") as caught:
                check(path)
            assert caught.value.code == ExitCode.ARTIFACT


def test_a_link_is_followed_unless_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_bounded(tmp_path / "link") == b"content"
    with pytest.raises(NotPlainFile, match="symbolic link"):
        open_plain(tmp_path / "link", links=False)


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(11))
    assert len(read_bounded(tmp_path / "file", 11)) == 11
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_bounded(tmp_path / "file", 10)
    with pytest.raises(TfcliError) as caught:
        read_json(tmp_path / "file", 10)
    assert caught.value.code == ExitCode.ARTIFACT


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a\0b", "a//b", "a/", "./a", ".", "x" * 300])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"path|folder|bytes"):
        safe_name(name)
    with pytest.raises(TfcliError) as caught:
        inside(tmp_path, name)
    assert caught.value.code == ExitCode.ARTIFACT


def test_no_link_on_the_way_to_a_name_is_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    folder = tmp_path / "folder"
    (folder / "plain").mkdir(parents=True)
    (folder / "away").symlink_to(tmp_path / "outside")
    assert inside(folder, "plain/file") == folder / "plain" / "file"
    with pytest.raises(TfcliError, match="outside") as caught:
        inside(folder, "away/file")
    assert "away is a symbolic link" in caught.value.why
    (tmp_path / "work").symlink_to(folder)  # the folder itself is the user's own choice
    assert inside(tmp_path / "work", "plain/file").parent.name == "plain"


def test_a_record_is_known_by_its_sum(tmp_path: Path) -> None:
    value = {"step": 4, "files": ["a", "b"]}
    write_record(tmp_path / "r.json", value)
    assert read_record(tmp_path / "r.json") == value
    data = (tmp_path / "r.json").read_bytes()
    changed = 0
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            (tmp_path / "r.json").write_bytes(flipped)
            try:
                assert read_record(tmp_path / "r.json", frozenset(value)) == value  # a blank for a line break
            except TfcliError:
                changed += 1
    assert changed > 5 * len(data)


def test_a_record_without_a_sum_is_one_of_the_old_ones_or_damaged(tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", {"step": 4})
    assert read_record(tmp_path / "r.json", frozenset({"step"})) == {"step": 4}
    for old_keys in (None, frozenset({"step", "files"})):
        with pytest.raises(TfcliError, match="is damaged"):
            read_record(tmp_path / "r.json", old_keys)


@pytest.mark.parametrize(
    "text", ["[1]", "null", '{"a": NaN, "sha256": ""}', '{"a": "\\ud800", "sha256": "x"}', "[" * 99_999]
)
def test_what_is_no_record_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(TfcliError, match="is damaged"):
        read_record(tmp_path / "r.json")
    (tmp_path / "r.json").write_text(json.dumps({}))
    with pytest.raises(TfcliError, match="is damaged"):
        read_record(tmp_path / "r.json")
