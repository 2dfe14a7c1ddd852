"""Types of columns: what cannot be read is refused by name, turns become text, a column of another name is offered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.sources.columns import text_of_turns
from stages.sources.document import Document, TextSegment
from stages.sources.folder import Folder
from stages.sources.parquet import Parquet
from stages.sources.text_table import TextTable

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TURNS = [{"role": "user", "content": "what is it?"}, {"role": "assistant", "content": "a cat"}]
SPEAKERS = [{"user": "what is it?", "assistant": "a cat"}]
READ = "user: what is it?\nassistant: a cat"


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def source(kind: str, folder: Path, text: list[Any], column: str = "text") -> Any:
    """One of the four readers of tables over a row with this text."""
    if kind == "pairs":
        return Parquet(path=str(table(folder / "t.parquet", image=[b"x"], **{column: text})), missing_caption="empty")
    if kind == "metadata":
        (folder / "a.png").write_bytes(b"x")
        table(folder / "metadata.parquet", file_name=["a.png"], **{column: text})
        return Folder(path=str(folder), missing_caption="empty")
    if kind == "text":
        return TextTable(path=str(table(folder / "t.parquet", **{column: text})))
    (folder / "t.jsonl").write_text(json.dumps({column: text[0]}))
    return TextTable(path=str(folder / "t.jsonl"))


@pytest.mark.parametrize("kind", ["pairs", "metadata", "text", "jsonl"])
@pytest.mark.parametrize("value", [{"en": "a cat"}, [{"lang": "en", "words": "a cat"}], ["a", "cat"]])
def test_a_column_that_holds_no_text_is_refused(tmp_path: Path, kind: str, value: Any) -> None:
    """It became nothing, and a model was trained on bare pictures."""
    with pytest.raises(TfcliError) as caught:
        list(source(kind, tmp_path, [value]).documents())
    assert caught.value.code == ExitCode.INPUT
    assert "text holds" in caught.value.what
    assert ("struct<" in caught.value.what or "list<" in caught.value.what) or kind == "jsonl"


@pytest.mark.parametrize("kind", ["pairs", "metadata", "text", "jsonl"])
@pytest.mark.parametrize("turns", [TURNS, SPEAKERS])
def test_turns_are_read_as_text(tmp_path: Path, kind: str, turns: Any) -> None:
    (document,) = source(kind, tmp_path, [turns]).documents()
    assert isinstance(document, Document)
    assert TextSegment(READ) in document.segments


def test_pictures_and_turns_of_one_row(tmp_path: Path) -> None:
    """As FineVision has them; one picture and one turn were taken for a list of pictures with texts of null."""
    path = table(tmp_path / "t.parquet", images=[[{"bytes": b"p", "path": None}]], texts=[SPEAKERS])
    (document,) = Parquet(path=str(path)).documents()
    assert isinstance(document, Document)
    assert document.segments[1] == TextSegment(READ)
    assert [image.picture.read() for image in document.images] == [b"p"]


def test_the_rule_for_turns() -> None:
    assert text_of_turns([{"role": None, "content": "a"}, {"role": "user", "content": ""}]) == "a"
    for other in ("a", {"role": "a", "content": "b"}, [{"role": "user", "content": [{"type": "image"}]}], [1], None):
        assert text_of_turns(other) is None


@pytest.mark.parametrize("column", ["image", "file_name", "key"])
def test_other_columns_are_checked_too(tmp_path: Path, column: str) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    reader: Any
    if column == "image":
        reader = Parquet(path=str(table(tmp_path / "t.parquet", image=[1.5], text=["a"])))
    elif column == "file_name":
        table(tmp_path / "metadata.parquet", file_name=[{"path": "a.png"}], text=["a"])
        reader = Folder(path=str(tmp_path))
    else:
        reader = TextTable(path=str(table(tmp_path / "t.parquet", key=[["a"]], text=["a"])), id_column="key")
    with pytest.raises(TfcliError, match=f"the column {column} holds"):
        list(reader.documents())


@pytest.mark.parametrize("kind", ["pairs", "metadata", "text", "jsonl"])
def test_a_text_column_of_another_name_is_offered(tmp_path: Path, kind: str) -> None:
    with pytest.raises(TfcliError) as caught:
        list(source(kind, tmp_path, ["a cat"], "prompt").documents())
    setting = "--set source.text_column=prompt" if kind in ("pairs", "metadata") else 'text_column = "prompt"'
    assert caught.value.fix.startswith(setting)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "prompt": "a cat"}'),
        ("metadata.csv", "file_name,prompt\na.png,a cat\n"),
    ],
)
def test_the_same_of_tables_of_captions(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / name).write_text(text)
    with pytest.raises(TfcliError) as caught:
        list(Folder(path=str(tmp_path)).documents())
    assert caught.value.fix == "--set source.text_column=prompt"
