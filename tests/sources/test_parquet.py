"""Parquet tables: pairs, interleaved rows and edits, pictures as bytes, structs and paths; nothing is read before it is asked."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.sources.captions import read_metadata
from stages.sources.document import Document, FileSpan, Omission, TextSegment
from stages.sources.parquet import Parquet

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

HF_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path: Path, group_rows: int = 2, **columns: Any) -> Path:
    """A table of columns; a value may be (list, type)."""
    arrays = {
        name: pa.array(*value) if isinstance(value, tuple) else pa.array(value) for name, value in columns.items()
    }
    pq.write_table(pa.table(arrays), path, row_group_size=group_rows)
    return path


def split(source: Parquet) -> tuple[list[Document], list[Omission]]:
    items = list(source.documents())
    assert items == list(source.documents())
    return [item for item in items if isinstance(item, Document)], [
        item for item in items if isinstance(item, Omission)
    ]


def images(document: Document) -> list[Any]:
    return [image.picture.read() for image in document.images]


def test_pairs_of_hugging_face_over_several_row_groups(tmp_path: Path) -> None:
    pictures = [{"bytes": bytes([number]) * 5, "path": "x.png"} for number in range(5)]
    texts = ["a", " b ", "c", None, "e"]
    source = Parquet(path=str(write(tmp_path / "train.parquet", image=(pictures, HF_IMAGE), text=texts)))
    documents, omissions = split(source)
    assert [document.key for document in documents] == ["train/0", "train/1", "train/2", "train/4"]
    assert [document.segments[0] for document in documents] == [TextSegment(text) for text in "abce"]
    assert [images(document) for document in documents] == [[bytes([number]) * 5] for number in (0, 1, 2, 4)]
    assert not documents[0].fixed_order
    assert [(omission.path, omission.reason) for omission in omissions] == [("train.parquet:3", "CAPTION_MISSING")]
    assert source.count() == (5, 5)
    assert "pairs from the columns image, text" in source.describe()
    assert len(pickle.dumps(documents[0])) < 500  # no picture in it
    assert images(pickle.loads(pickle.dumps(documents[2]))) == [b"\x02" * 5]


def test_pictures_as_bytes_and_as_paths(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "7.png").write_bytes(b"seven")
    write(tmp_path / "a.parquet", image=[b"one", None], caption=["x", "y"])
    write(tmp_path / "b.parquet", image=["img/7.png", "img/8.png", "../etc/passwd"], caption=["x", "y", "z"])
    documents, omissions = split(Parquet(path=str(tmp_path)))
    assert [(document.key, images(document)) for document in documents] == [("a/0", [b"one"]), ("b/0", [b"seven"])]
    assert isinstance(documents[1].images[0].picture, FileSpan)
    assert [omission.reason for omission in omissions] == ["IMAGE_MISSING", "IMAGE_MISSING", "IMAGE_PATH"]


def test_interleaved_lists(tmp_path: Path) -> None:
    path = write(
        tmp_path / "web.parquet",
        texts=[["First ", None, "then"], [None], None, ["a", "b"], ["x"], []],
        images=(
            [[None, {"bytes": b"i"}, None], [{"bytes": b"j"}], [], [None], [{"bytes": b"k"}], []],
            pa.list_(HF_IMAGE),
        ),
    )
    source = Parquet(path=str(path))
    documents, omissions = split(source)
    assert [document.key for document in documents] == ["web/0", "web/1"]
    first = documents[0]
    assert first.fixed_order
    assert (first.segments[0], first.segments[2]) == (TextSegment("First "), TextSegment("then"))
    assert [images(document) for document in documents] == [[b"i"], [b"j"]]
    assert [(omission.path, omission.reason) for omission in omissions] == [
        ("web.parquet:2", "ROW_BROKEN"),
        ("web.parquet:3", "ROW_BROKEN"),
        ("web.parquet:4", "ROW_BROKEN"),
        ("web.parquet:5", "DOCUMENT_EMPTY"),
    ]
    assert source.count() == (6, 2)


def test_edit_pairs(tmp_path: Path) -> None:
    path = write(
        tmp_path / "e.parquet",
        input_image=[b"old", b"old"],
        edit_prompt=["make it red", None],
        edited_image=[b"new", b"new"],
    )
    source = Parquet(path=str(path))
    documents, omissions = split(source)
    assert [images(document) for document in documents] == [[b"old", b"new"]]
    assert documents[0].segments[1] == TextSegment("make it red")
    assert documents[0].fixed_order
    assert [omission.reason for omission in omissions] == ["CAPTION_MISSING"]
    assert source.count() == (2, 4)


def test_the_identity_follows_tables_and_named_pictures(tmp_path: Path) -> None:
    (tmp_path / "7.png").write_bytes(b"seven")
    write(tmp_path / "b.parquet", image=["7.png"], text=["x"])
    source = Parquet(path=str(tmp_path))
    before = source.identity()
    assert before == source.identity()
    (tmp_path / "7.png").write_bytes(b"eight")
    assert source.identity() != before


def test_the_identity_reads_no_picture_in_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what may name files: texts, and paths of structs where not each has its bytes."""
    (tmp_path / "7.png").write_bytes(b"seven")
    inside, by_path, none = {"bytes": b"x", "path": "7.png"}, {"bytes": None, "path": "7.png"}, {"bytes": b"x"}
    tables: dict[str, tuple[dict[str, Any], list[str]]] = {
        "bytes": ({"image": [b"x", None], "text": ["a", "b"]}, []),
        "inside": ({"image": ([inside, inside], HF_IMAGE), "text": ["a", "b"]}, []),
        "no_paths": ({"image": ([none, {"bytes": None}], HF_IMAGE), "text": ["a", "b"]}, []),
        "struct": ({"image": ([inside, by_path], HF_IMAGE), "text": ["a", "b"]}, ["image.path"]),
        "texts": ({"image": ["7.png", "../8.png"], "text": ["a", "b"]}, ["image"]),
        "lists": (
            {"images": ([[by_path, None], None], pa.list_(HF_IMAGE)), "texts": [[None, "a"], None]},
            ["images.list.element.path"],
        ),
        "edits": (
            {"input_image": [b"x"], "edit": ["a"], "edited_image": ([by_path], HF_IMAGE)},
            ["edited_image.path"],
        ),
    }
    read: list[str] = []
    real = pq.ParquetFile.read_row_group

    def noted(table: Any, group: int, columns: list[str]) -> Any:
        read.extend(columns)
        return real(table, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    for name, (columns, expected) in tables.items():
        source = Parquet(path=str(write(tmp_path / f"{name}.parquet", **columns)))
        read.clear()
        before = source.identity()
        assert read == expected, name
        (tmp_path / "7.png").write_bytes(b"eight")
        assert (source.identity() != before) == bool(expected), name
        (tmp_path / "7.png").write_bytes(b"seven")


@pytest.mark.parametrize("compression", ["snappy", "none"])
def test_damaged_pages_are_named_with_their_row_group(tmp_path: Path, compression: str) -> None:
    """Of a table whose end, where its columns are listed, is whole: cut by a disk, or fetched with a hole in it."""
    path = tmp_path / "x.parquet"
    rows = pa.table({"file_name": [f"{n}.png" for n in range(40)], "image": [b"x" * 9] * 40, "text": ["caption"] * 40})
    pq.write_table(rows, path, row_group_size=20, compression=compression, use_dictionary=False)
    data = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(2)
    start = column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    error = refused(path)
    assert error.what == f"{path} is damaged in row group 1"
    assert error.code == ExitCode.INPUT
    assert error.why
    with pytest.raises(TfcliError, match="is damaged in row group 1"):
        read_metadata(path, "")


def refused(path: Path, **options: Any) -> TfcliError:
    with pytest.raises(TfcliError) as caught:
        list(Parquet(path=str(path), **options).documents())
    return caught.value


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("<html>")
    assert "not a parquet file" in refused(tmp_path / "x.parquet").what
    assert refused(tmp_path / "none.parquet").code == ExitCode.USAGE
    (tmp_path / "empty").mkdir()
    assert "no tables in" in refused(tmp_path / "empty").what
    path = write(tmp_path / "y.parquet", url=["http://a"], alt=["b"])
    error = refused(path)
    assert "no column image" in error.what
    assert error.why is not None
    assert "url, alt" in error.why
