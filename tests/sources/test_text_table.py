"""Text in tables: rows become documents, bad ones are left out with a reason, damage is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.sources.document import Document, Omission, TextSegment
from stages.sources.text_table import TextTable

ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": "first", "book": "x"},
    {"id": "b", "text": "", "book": "x"},
    {"id": "c", "text": None, "book": "y"},
    {"id": "d", "text": "a\u2581b", "book": "y"},
    {"id": "e", "text": " last\n", "book": "y"},
]


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.name.endswith(".parquet"):
        parquet = pytest.importorskip("pyarrow.parquet")
        arrow = pytest.importorskip("pyarrow")
        parquet.write_table(arrow.Table.from_pylist(rows), path, row_group_size=2)
    else:
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.parquet"])
def test_rows_are_documents_in_their_order(tmp_path: Path, name: str) -> None:
    table = TextTable(path=str(write(tmp_path / name)), id_column="id", group_column="book")
    items = list(table.documents())
    documents = [item for item in items if isinstance(item, Document)]
    assert [(item.key, item.group, item.segments) for item in documents] == [
        ("t/a", "x", (TextSegment("first"),)),
        ("t/e", "y", (TextSegment(" last\n"),)),
    ]
    assert all(item.fixed_order for item in documents)
    reasons = [(item.path, item.reason) for item in items if isinstance(item, Omission)]
    assert reasons == [(f"{name}:2", "TEXT_EMPTY"), (f"{name}:3", "TEXT_MISSING"), (f"{name}:4", "TEXT_U2581")]
    assert table.count() == (2, 0)


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet"])
def test_rows_without_id_or_group_are_not_all_one(tmp_path: Path, name: str) -> None:
    rows = [("2", "x"), (None, None), (None, None), ("d", None)]
    path = write(tmp_path / name, [{"id": key, "text": "t", "book": group} for key, group in rows])
    table = TextTable(path=str(path), id_column="id", group_column="book")
    found = [(item.key, item.group) for item in table.documents() if isinstance(item, Document)]
    assert found == [("t/2", "x"), ("t/row 2", None), ("t/row 3", None), ("t/d", None)]


def test_a_text_of_blanks_is_none(tmp_path: Path) -> None:
    table = TextTable(path=str(write(tmp_path / "t.jsonl", [{"text": " \n\t"}, {"text": "x"}])))
    assert [item.reason for item in table.documents() if isinstance(item, Omission)] == ["TEXT_EMPTY"]


def test_a_folder_is_read_file_by_file_and_numbers_are_keys(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", [{"text": "two"}])
    write(tmp_path / "a.jsonl.gz", [{"text": "one"}])
    table = TextTable(path=str(tmp_path))
    assert [item.key for item in table.documents()] == ["a/1", "b/1"]
    before = table.identity()
    write(tmp_path / "b.jsonl", [{"text": "three"}])
    assert table.identity() != before


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"content": "x"}])
    with pytest.raises(TfcliError, match=r"t.jsonl:1: no text \(found content\)"):
        list(TextTable(path=str(path)).documents())
    assert [item.key for item in TextTable(path=str(path), text_column="content").documents()] == ["t/1"]


def test_a_cut_archive_is_an_error_and_not_an_end(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "x"}\n' * 500)[:-12])
    with pytest.raises(TfcliError, match="damaged") as caught:
        list(TextTable(path=str(path)).documents())
    assert caught.value.code == ExitCode.INPUT
    path.write_bytes(b"no archive")
    with pytest.raises(TfcliError, match="damaged"):
        list(TextTable(path=str(path)).documents())


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("x")
    with pytest.raises(TfcliError, match="not a text table") as caught:
        list(TextTable(path=str(tmp_path / "t.txt")).documents())
    assert caught.value.code == ExitCode.USAGE
    with pytest.raises(TfcliError, match="no text tables"):
        list(TextTable(path=str(tmp_path)).documents())
