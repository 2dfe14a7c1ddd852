"""The interleaved source: round trip, and errors that name the line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.sources.document import Document, Omission, TextSegment
from stages.sources.jsonl import Jsonl


def write(root: Path, *records: Any) -> Jsonl:
    (root / "img").mkdir(exist_ok=True)
    for name in ("7a.png", "7b.png"):
        (root / "img" / name).write_bytes(name.encode())
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (root / "pages.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return Jsonl(path=str(root / "pages.jsonl"))


def test_any_number_of_pictures_in_order(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        {"id": "two", "parts": [{"text": "First, "}, {"image": "img/7a.png"}, {"text": ""}, {"image": "./img/7b.png"}]},
        {"id": "none", "parts": [{"text": " spaces stay \r\n"}], "group": "g"},
        {"id": "same", "parts": [{"image": "img/7a.png"}, {"image": "img/7a.png"}]},
    )
    items = list(source.documents())
    assert items == list(source.documents())
    two, none, same = items
    assert isinstance(two, Document)
    assert isinstance(none, Document)
    assert isinstance(same, Document)
    assert two.key == "two"
    assert two.segments[0] == TextSegment("First, ")
    assert [image.name for image in two.images] == ["img/7a.png", "img/7b.png"]
    assert [image.picture.read() for image in two.images] == [b"7a.png", b"7b.png"]
    assert two.fixed_order
    assert none.group == "g"
    assert none.segments == (TextSegment(" spaces stay \n"),)
    assert len(same.images) == 2
    assert source.count() == (3, 4)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", ":2: not JSON"),
        ("[1]", ":2: not a JSON object"),
        ({"parts": []}, ":2: id is missing"),
        ({"id": "", "parts": []}, ":2: id is missing"),
        ({"id": 5, "parts": []}, ":2: id is missing"),
        ({"id": "ok", "parts": []}, ":2: id ok again, first in line 1"),
        ({"id": "b"}, ":2: parts is missing"),
        ({"id": "b", "parts": {}}, ":2: parts is missing"),
        ({"id": "b", "parts": [], "groop": "x"}, ":2: unknown key groop"),
        ({"id": "b", "parts": [], "group": 5}, ":2: group is not"),
        ({"id": "b", "parts": ["text"]}, ":2: every part is"),
        ({"id": "b", "parts": [{"video": "x"}]}, ":2: every part is"),
        ({"id": "b", "parts": [{"text": "x", "image": "y"}]}, ":2: every part is"),
        ({"id": "b", "parts": [{"text": 5}]}, ":2: text is not a string"),
        ({"id": "b", "parts": [{"image": "/etc/passwd"}]}, ":2: absolute paths"),
        ({"id": "b", "parts": [{"image": "../x.png"}]}, ":2: paths with .."),
        ({"id": "b", "parts": [{"image": "img"}]}, ":2: image img is not a file"),
        ({"id": "b", "parts": [{"image": "img/none.png"}]}, ":2: image img/none.png is not a file"),
        ({"id": "b", "parts": [{"image": "x" * 5000}]}, "is not a file"),
        ({"id": "b", "parts": [{"image": "\ud800"}]}, "is not a file"),
        ({"id": "b", "parts": [{"image": "http://a/b.png"}]}, "is not a file"),
        ({"id": "b", "parts": [{"image": "pipe.png"}]}, "is not a file"),
        ({"id": "b", "parts": [{"image": "out.png"}]}, ":2: image out.png leads out of the folder"),
    ],
)
def test_bad_lines(tmp_path: Path, record: Any, message: str) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "secret.png").touch()
    os.symlink(tmp_path / "secret.png", inside / "out.png")
    os.mkfifo(inside / "pipe.png")
    source = write(inside, {"id": "ok", "parts": [{"text": "x"}]}, record)
    with pytest.raises(TfcliError) as caught:
        list(source.documents())
    assert message in caught.value.what
    assert "pages.jsonl:2" in caught.value.what
    assert caught.value.code == ExitCode.INPUT


def test_unusable_text_omits_its_document_only(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        {"id": "nul", "parts": [{"text": "a\x00"}, {"image": "img/7a.png"}]},
        {"id": "half", "parts": [{"text": "\ud800"}]},
        {"id": "mark", "parts": [{"text": "\u2581"}]},
        {"id": "empty", "parts": [{"text": ""}]},
        {"id": "good", "parts": [{"text": "<boi>"}]},
    )
    reasons = [item.reason if isinstance(item, Omission) else item.key for item in source.documents()]
    assert reasons == ["TEXT_NUL", "TEXT_SURROGATE", "TEXT_U2581", "DOCUMENT_EMPTY", "good"]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(TfcliError) as caught:
            list(Jsonl(path=str(path)).documents())
        assert caught.value.code == ExitCode.USAGE


def test_identity_covers_the_pictures(tmp_path: Path) -> None:
    source = write(tmp_path, {"id": "a", "parts": [{"image": "img/7a.png"}]})
    before = source.identity()
    (tmp_path / "img/7b.png").write_bytes(b"not read")
    assert source.identity() == before
    (tmp_path / "img/7a.png").write_bytes(b"changed")
    assert source.identity() != before
