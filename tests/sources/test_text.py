"""The text source: three ways to split, cleaning, and bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import TfcliError
from stages.sources.document import Document, Omission, TextSegment
from stages.sources.text import TextFiles


def run(path: Path, **options: Any) -> list[tuple[str, str]]:
    """(key, text or reason) of everything."""
    source = TextFiles(path=str(path), **options)
    items = list(source.documents())
    assert items == list(source.documents())
    rows = []
    for item in items:
        if isinstance(item, Omission):
            rows.append((item.key, item.reason))
            continue
        assert isinstance(item, Document)
        assert item.images == ()
        (segment,) = item.segments
        assert isinstance(segment, TextSegment)
        rows.append((item.key, segment.text))
    return rows


def test_three_ways_to_split(tmp_path: Path) -> None:
    path = tmp_path / "novel.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n two\r\n\r\n \t\r\n\r\nthree\nfour")
    assert run(path) == [("novel", "one\n two\n\n \t\n\nthree\nfour")]
    assert run(path, split="paragraph") == [("novel:0", "one\n two"), ("novel:1", "three\nfour")]
    assert [text for _, text in run(path, split="line")] == ["one", " two", "three", "four"]


def test_a_folder_in_the_order_of_bytes(tmp_path: Path) -> None:
    for name in ("b.txt", "a/c.txt", "Z.TXT", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert run(tmp_path) == [("Z", "Z.TXT"), ("a/c", "a/c.txt"), ("b", "b.txt")]


def test_one_bad_part_costs_one_part(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"good\n\nbad \xff\n\nnul \x00\n\n" + b"x" * 5000 + b"\n" + b"y" * 5000 + b"\n\nlast\n")
    expected = ["good", "TEXT_NOT_UTF8", "TEXT_NUL", "TEXT_TOO_LONG", "last"]
    assert [text for _, text in run(path, split="paragraph", max_text_bytes=4000)] == expected
    lines = ["good", "TEXT_NOT_UTF8", "TEXT_NUL", "TEXT_TOO_LONG", "TEXT_TOO_LONG", "last"]
    assert [text for _, text in run(path, split="line", max_text_bytes=4000)] == lines
    assert run(path, max_text_bytes=4000) == [("t", "TEXT_TOO_LONG")]


def test_a_line_of_exactly_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"12345\n123456\n12345")
    assert [text for _, text in run(path, split="line", max_text_bytes=5)] == ["12345", "TEXT_TOO_LONG", "12345"]


def test_empty_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(TfcliError, match="no text in"):
        run(tmp_path)
    with pytest.raises(TfcliError, match="text not found"):
        run(tmp_path / "none")
    (tmp_path / "a.txt").write_bytes(b" \n")
    assert run(tmp_path) == [("a", "TEXT_EMPTY")]
    assert run(tmp_path, split="line") == []


def test_two_files_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.TXT").write_text("one")
    (tmp_path / "a.txt").write_text("two")
    assert run(tmp_path) == [("a", "one"), ("a", "DUPLICATE_KEY")]


def test_identity(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    folder, file = TextFiles(path=str(tmp_path)), TextFiles(path=str(tmp_path / "a.txt"))
    before = folder.identity()
    assert file.identity() == before
    (tmp_path / "notes.md").write_text("not read")
    assert folder.identity() == before
    (tmp_path / "a.txt").write_text("two")
    assert folder.identity() != before
