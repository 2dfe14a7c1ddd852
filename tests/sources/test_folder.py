"""The folder source: captions from three places, the order, and every bad input of a folder."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.coders.pixels import encode_png
from stages.core.errors import ExitCode, TfcliError
from stages.sources.document import Document, FileSpan, ImageSegment, Omission, TextSegment
from stages.sources.folder import Folder

PNG = encode_png(np.zeros((8, 8, 3), dtype=np.uint8))


def put(root: Path, name: str, caption: str | bytes | None = None) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PNG)
    if caption is not None:
        data = caption.encode() if isinstance(caption, str) else caption
        path.with_suffix(".txt").write_bytes(data)


def split(source: Folder) -> tuple[list[Document], list[Omission]]:
    items = list(source.documents())
    assert items == list(source.documents()), "the order must be stable"
    documents = [item for item in items if isinstance(item, Document)]
    assert all(segment.text for item in documents for segment in item.segments if isinstance(segment, TextSegment))
    return documents, [item for item in items if isinstance(item, Omission)]


def reasons(root: Path, **options: Any) -> dict[str, str]:
    return {item.path: item.reason for item in split(Folder(path=str(root), **options))[1]}


def refused(root: Path, **options: Any) -> TfcliError:
    with pytest.raises(TfcliError) as caught:
        list(Folder(path=str(root), **options).documents())
    return caught.value


def test_pairs_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    for name in ["b.png", "a/z.JPG", "a/b.webp", "Z.png", "é.png", "a.b.png"]:
        put(tmp_path, name, f"caption of {name}")
    documents, omissions = split(Folder(path=str(tmp_path)))
    assert [document.key for document in documents] == ["Z", "a.b", "a/b", "a/z", "b", "é"]
    assert omissions == []
    first = documents[0]
    assert first.segments == (TextSegment("caption of Z.png"), ImageSegment("Z.png", FileSpan(tmp_path / "Z.png")))
    assert not first.fixed_order
    assert first.images[0].picture.read() == PNG
    assert pickle.loads(pickle.dumps(documents)) == documents


def test_metadata_is_preferred_and_described(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "from txt")
    put(tmp_path, "sub/b.png")
    assert "a .txt file" in Folder(path=str(tmp_path)).describe()
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.png,from csv\n", "utf-8")
    assert "metadata.csv" in Folder(path=str(tmp_path)).describe()
    rows = [{"file_name": "a.png", "text": " from jsonl\n", "alt": "other"}, {"file_name": "./sub/b.png", "text": "b"}]
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, rows)), "utf-8")
    documents, _ = split(Folder(path=str(tmp_path)))
    assert [document.segments[0] for document in documents] == [TextSegment("from jsonl"), TextSegment("b")]
    documents, _ = split(Folder(path=str(tmp_path), captions="txt"))
    assert [document.segments[0] for document in documents] == [TextSegment("from txt")]
    (tmp_path / "metadata.jsonl").unlink()
    documents, omissions = split(Folder(path=str(tmp_path)))
    assert [document.segments[0] for document in documents] == [TextSegment("from csv")]
    assert [(item.key, item.reason) for item in omissions] == [("sub/b", "CAPTION_MISSING")]


def test_the_metadata_of_the_nearest_folder_counts(tmp_path: Path) -> None:
    for name in ("a/one.png", "a/b/two.png"):
        put(tmp_path, name)
    for folder, row in (
        ("a", {"file_name": "one.png", "text": "one"}),
        ("a", {"file_name": "b/two.png", "text": "far"}),
        ("a/b", {"file_name": "two.png", "text": "near"}),
    ):
        with (tmp_path / folder / "metadata.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    documents, _ = split(Folder(path=str(tmp_path)))
    captions = {document.key: document.segments[0] for document in documents}
    assert captions == {"a/one": TextSegment("one"), "a/b/two": TextSegment("near")}


def test_metadata_in_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    put(tmp_path, "a.png")
    put(tmp_path, "b.png")
    table = {"file_name": ["a.png", "b.png"], "text": ["from parquet", None], "score": [1, 2]}
    pq.write_table(pa.table(table), tmp_path / "metadata.parquet")
    source = Folder(path=str(tmp_path))
    documents, omissions = split(source)
    assert [document.segments[0] for document in documents] == [TextSegment("from parquet")]
    assert [(item.key, item.reason) for item in omissions] == [("b", "CAPTION_MISSING")]
    assert "metadata.parquet" in source.describe()
    assert source.count() == (2, 2)


def test_the_text_column_can_be_named(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "no", "alt": "yes"}', "utf-8")
    documents, _ = split(Folder(path=str(tmp_path), text_column="alt"))
    assert documents[0].segments[0] == TextSegment("yes")
    assert "no wrong (found file_name, text, alt)" in refused(tmp_path, text_column="wrong").what


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", ":2: not JSON"),
        ('["a.png"]', ":2: not a JSON object"),
        ("null", ":2: not a JSON object"),
        ('{"text": "x"}', ":2: no file_name (found text)"),
        ('{"file_name": 5, "text": "x"}', ":2: no file_name"),
        ('{"file_name": "b.png"}', ":2: no text or caption"),
        ('{"file_name": "b.png", "text": 5}', ":2: text is not a text"),
        ('{"file_name": "c.png", "text": "x"}', ":2: file_name c.png is not a picture in the folder"),
        ('{"file_name": "a.png", "text": "x"}', ":2: file_name a.png again, first in line 1"),
        ('{"file_name": "./a.png", "text": "x"}', "again, first in line 1"),
        ('{"file_name": "/etc/passwd", "text": "x"}', ":2: absolute paths are refused (/etc/passwd)"),
        ('{"file_name": "../a.png", "text": "x"}', ":2: paths with .. are refused"),
        ('{"file_name": "sub/../../a.png", "text": "x"}', ":2: paths with .. are refused"),
        ('{"file_name": "a\\u0000.png", "text": "x"}', ":2: the path is empty or holds NUL"),
        ('{"file_name": "x\\u001b[31m.png", "text": "x"}', "x\\x1b[31m.png is not"),
        ("[" * 100_000, ":2: not JSON"),
    ],
)
def test_bad_metadata_lines(tmp_path: Path, line: str, message: str) -> None:
    put(tmp_path, "a.png")
    put(tmp_path, "b.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n' + line, "utf-8")
    error = refused(tmp_path)
    assert message in error.what
    assert str(tmp_path / "metadata.jsonl") in error.what
    assert error.code == ExitCode.INPUT


def test_metadata_that_is_not_utf8(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_bytes(b'{"file_name": "a.png", "text": "\xff"}')
    assert ":1: not UTF-8" in refused(tmp_path).what
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_bytes(b"file_name,text\na.png,\xff\n")
    assert "not UTF-8" in refused(tmp_path).what


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.png,a cat\n", "the columns found are: a.png, a cat"),
        ("file_name;text\na.png;a cat\n", "the columns found are: file_name;text"),
        ("", "the columns found are: none"),
    ],
)
def test_csv_without_its_columns(tmp_path: Path, content: str, message: str) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text(content, "utf-8")
    error = refused(tmp_path)
    assert "metadata.csv:1: needs the columns file_name and text or caption" in error.what
    assert error.why == message


def test_csv_with_a_ragged_row_and_with_a_mark(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text('\ufefffile_name,text\r\na.png,"one, ""two"""\r\n', "utf-8", newline="")
    assert split(Folder(path=str(tmp_path)))[0][0].segments[0] == TextSegment('one, "two"')
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,one, two\n", "utf-8")
    assert ":2: not 2 columns" in refused(tmp_path).what
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png\n", "utf-8")
    assert ":2: not 2 columns" in refused(tmp_path).what


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (None, "CAPTION_MISSING"),
        (b"", "CAPTION_MISSING"),
        (b" \r\n\t", "CAPTION_MISSING"),
        (b"x" * 101, "TEXT_TOO_LONG"),
        (b"a\x00b", "TEXT_NUL"),
        (b"caf\xe9", "TEXT_NOT_UTF8"),
        (b"\xed\xa0\x80", "TEXT_NOT_UTF8"),
        ("a\u2581b", "TEXT_U2581"),
    ],
)
def test_captions_that_cannot_be_used(tmp_path: Path, caption: bytes | str | None, reason: str) -> None:
    put(tmp_path, "a.png", caption)
    put(tmp_path, "b.png", "fine")
    documents, omissions = split(Folder(path=str(tmp_path), max_text_bytes=100))
    assert [(item.key, item.reason) for item in omissions] == [("a", reason)]
    assert [document.key for document in documents] == ["b"]
    assert omissions[0].message


def test_captions_are_cleaned_but_not_changed(tmp_path: Path) -> None:
    put(tmp_path, "a.png", b"\xef\xbb\xbf two\r\nlines <boi> [/b] %s \x1b[0m\r\n")
    assert split(Folder(path=str(tmp_path)))[0][0].segments[0] == TextSegment("two\nlines <boi> [/b] %s \x1b[0m")


def test_a_surrogate_in_json(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "\\ud800"}', "utf-8")
    assert reasons(tmp_path) == {"a.png": "TEXT_SURROGATE"}


def test_missing_captions_may_be_wanted(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    put(tmp_path, "b.png", " ")
    documents, omissions = split(Folder(path=str(tmp_path), missing_caption="empty"))
    assert omissions == []
    assert [len(document.segments) for document in documents] == [1, 1]


def test_two_pictures_of_one_name(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "x")
    put(tmp_path, "a.png")
    documents, omissions = split(Folder(path=str(tmp_path)))
    assert [document.images[0].name for document in documents] == ["a.jpg"]
    assert [(item.path, item.reason) for item in omissions] == [("a.png", "DUPLICATE_KEY")]


def test_missing_folder_suggests_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    error = refused(tmp_path / "imagse")
    assert error.what.startswith("images folder not found: ")
    assert f"did you mean {tmp_path / 'images'}?" in error.fix
    assert error.code == ExitCode.USAGE
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file").code == ExitCode.USAGE


@pytest.mark.parametrize("url", ["pipe:cat x", "http://a/b", "file:///etc/passwd", "s3://b/c"])
def test_only_local_paths(url: str) -> None:
    with pytest.raises(TfcliError, match="only local paths are accepted") as caught:
        list(Folder(path=url).documents())
    assert caught.value.code == ExitCode.USAGE


def test_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.doc").touch()
    error = refused(tmp_path)
    assert error.what.startswith(f"no images in {tmp_path} (looked for jpg, jpeg, png, webp")
    assert error.what.endswith("in 1 files)")
    assert error.code == ExitCode.INPUT
    (tmp_path / "sub").mkdir()
    put(tmp_path, "sub/a.png", "x")
    assert "recursive" in refused(tmp_path, recursive=False).fix
    assert refused(tmp_path, captions="metadata").code == ExitCode.USAGE


def test_special_files_never_block(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "x")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    os.symlink(tmp_path, tmp_path / "loop")
    os.symlink("/nowhere", tmp_path / "dead.png")
    assert reasons(tmp_path) == {"pipe.png": "SKIPPED_SPECIAL", "loop": "SKIPPED_LINK", "dead.png": "SKIPPED_LINK"}
    assert reasons(tmp_path, follow_links=True) == {
        "pipe.png": "SKIPPED_SPECIAL",
        "loop": "SKIPPED_SPECIAL",
        "dead.png": "SKIPPED_SPECIAL",
    }
    with pytest.raises(OSError, match="not a plain file"):
        FileSpan(tmp_path / "pipe.png").read()


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    put(tmp_path, "out/secret.png", "x")
    put(tmp_path, "in/a.png", "x")
    os.symlink(tmp_path / "out", tmp_path / "in" / "link")
    assert [item.key for item in split(Folder(path=str(tmp_path / "in")))[0]] == ["a"]
    followed = split(Folder(path=str(tmp_path / "in"), follow_links=True))[0]
    assert [item.key for item in followed] == ["a", "link/secret"]


def test_unreadable_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.png", "x")
    # tests run as root, whom no mode stops
    monkeypatch.setattr(os, "access", lambda path, _mode: not str(path).endswith("a.png"))
    assert reasons(tmp_path) == {"a.png": "PERMISSION"}


def test_hostile_names_are_keys_as_they_are(tmp_path: Path) -> None:
    names = [
        "new\nline",
        "\x1b[31mred",
        "[b]",
        "%s{0}",
        "\u202eevil",
        os.fsdecode(b"\xff\xfe"),
        "x" * 240,
        "-rf",
        "-- rm",
    ]
    for name in names:
        (tmp_path / f"{name}.png").write_bytes(PNG)
        (tmp_path / f"{name}.txt").write_bytes(b"x")
    documents, omissions = split(Folder(path=str(tmp_path)))
    assert {document.key for document in documents} == set(names)
    assert omissions == []
    assert all(document.images[0].picture.read() == PNG for document in documents)
    (tmp_path / "\x1b[31mred.jpg").write_bytes(PNG)
    _, omissions = split(Folder(path=str(tmp_path)))
    assert "\x1b" not in omissions[0].message
    Folder(path=str(tmp_path)).identity()


def test_a_very_deep_folder(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "x")
    here = os.getcwd()
    os.chdir(tmp_path)
    depth = 1200  # deeper than Python may recurse
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        assert [document.key for document in split(Folder(path=str(tmp_path)))[0]] == ["a"]
    finally:
        for _ in range(depth):  # pytest's own cleaning recurses
            os.chdir("..")
            os.rmdir("d")
        os.chdir(here)


def test_identity_sees_pictures_and_captions_and_nothing_else(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "x")
    source = Folder(path=str(tmp_path))
    before = source.identity()
    (tmp_path / "unrelated.txt").write_text("x")
    (tmp_path / "notes.md").write_text("x")
    assert source.identity() == before
    (tmp_path / "a.txt").write_text("y")
    other = source.identity()
    assert other != before
    (tmp_path / "a.png").write_bytes(PNG + b"\x00")
    assert source.identity() not in (before, other)


def test_spans_read_their_part(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")
    assert FileSpan(path).read() == b"0123456789"
    assert FileSpan(path, 3, 4).read() == b"3456"
    assert FileSpan(path, 8, 100).read() == b"89"
