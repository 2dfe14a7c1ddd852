"""Lines of users' files: their ends, their numbers in errors, their bounds."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pytest

from stages.core.errors import TfcliError
from stages.sources.captions import read_metadata
from stages.sources.document import Omission
from stages.sources.lines import lines_of
from stages.sources.text import TextFiles
from stages.sources.text_table import TextTable


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, (1 << 20) - 1, 1 << 20, 3 << 20])
def test_lines_end_alike(end: bytes, size: int) -> None:
    """Also where the two bytes of an end fall into two pieces that are read."""
    lines = [b"a" * size, b"", b"b", b"c" * size]
    found = list(lines_of(io.BytesIO(end.join(lines))))
    assert [line.rstrip(b"\r\n") for line in found] == lines
    assert [len(line) for line in lines_of(io.BytesIO(end.join(lines)), 10)][3] == min(size, 11)


GOOD = "".join(f"{number}.png,a thing\n" for number in range(3000))  # more than a buffer of a text file


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b'x.png,"a"thing\n', "not CSV"),
        (b"x.png,a,thing\n", "not 2 columns"),
        (b"x.png,caf\xe9\n", "not UTF-8"),
        (b'x.png,"two\nlines,\nno end\n', "not CSV"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_broken_csv_record_is_named_by_its_first_line(tmp_path: Path, bad: bytes, message: str, end: str) -> None:
    """The line before it was named, with the advice to remove that."""
    path = tmp_path / "metadata.csv"
    start = "file_name,text\n" + GOOD + '"y.png","two\nlines"\n\n'
    path.write_bytes((start.encode() + bad + GOOD.encode()).replace(b"\n", end.encode()))
    with pytest.raises(TfcliError, match=f"metadata.csv:{1 + 3000 + 2 + 1 + 1}: {message}"):
        read_metadata(path, "")


def test_a_record_of_several_lines_has_the_number_of_its_first(tmp_path: Path) -> None:
    path = tmp_path / "metadata.csv"
    path.write_text('file_name,text\n"a.png","two\nlines"\n\nb.png,b\n')
    assert {name: row.line for name, row in read_metadata(path, "").items()} == {"a.png": 2, "b.png": 5}


def test_a_damaged_archive_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "x"}\n') + b"no archive")
    with pytest.raises(TfcliError, match="damaged behind line 1"):
        list(TextTable(path=str(path)).documents())
    path.write_bytes(gzip.compress(b'{"text": "x"}\r\n{broken'))
    with pytest.raises(TfcliError, match=r"t\.jsonl\.gz:2: not JSON"):
        list(TextTable(path=str(path)).documents())


@pytest.mark.parametrize(("split", "line"), [("line", 4), ("paragraph", 3)])
def test_a_text_left_out_is_named_by_its_line(tmp_path: Path, split: str, line: int) -> None:
    (tmp_path / "t.txt").write_bytes(b"one\n\nmore\nb\xff\n")
    items = list(TextFiles(path=str(tmp_path), split=split).documents())  # type: ignore[arg-type]
    assert [item.path for item in items if isinstance(item, Omission)] == [f"t.txt:{line}"]
