"""Line ends alike in every reader; and a stage that is left with nothing says what left everything out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stages.coders.pixels import encode_png
from stages.sample_model.prompts import checked_text
from stages.sources.document import Document, TextSegment
from stages.sources.folder import Folder
from stages.sources.jsonl import Jsonl
from stages.sources.reasons import LeftOut
from stages.sources.text_table import TextTable
from stages.tokenize_text.recaption import Captions

RAW, CLEAN = "one\r\ntwo\rthree", "one\ntwo\nthree"


@pytest.mark.parametrize("kind", ["txt", "metadata.jsonl", "metadata.csv", "jsonl", "table", "parquet"])
def test_line_ends_are_line_feeds_in_every_reader(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((8, 8, 3), dtype=np.uint8)))
    source: Folder | Jsonl | TextTable = Folder(path=str(tmp_path))
    if kind == "txt":
        (tmp_path / "a.txt").write_bytes(RAW.encode())
    elif kind == "metadata.jsonl":
        (tmp_path / kind).write_text(json.dumps({"file_name": "a.png", "text": RAW}))
    elif kind == "metadata.csv":
        (tmp_path / kind).write_bytes(f'file_name,text\r\na.png,"{RAW}"\r\n'.encode())
    elif kind == "jsonl":
        (tmp_path / "d.jsonl").write_text(json.dumps({"id": "a", "parts": [{"text": RAW}]}))
        source = Jsonl(path=str(tmp_path / "d.jsonl"))
    elif kind == "table":
        (tmp_path / "t.jsonl").write_text(json.dumps({"text": RAW}))
        source = TextTable(path=str(tmp_path / "t.jsonl"))
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({"file_name": ["a.png"], "text": [RAW]}), tmp_path / "metadata.parquet")
    (document,) = source.documents()
    assert isinstance(document, Document)
    assert document.segments[0] == TextSegment(CLEAN)


def test_of_prompts_and_files_of_captions_too(tmp_path: Path) -> None:
    assert checked_text(RAW, "prompt") == CLEAN
    (tmp_path / "c.jsonl").write_text(json.dumps({"key": "a", "text": RAW}))
    assert Captions(str(tmp_path / "c.jsonl")).rows["a"].caption == CLEAN


def test_nothing_left_names_the_reasons(tmp_path: Path) -> None:
    """It said that the source has no pictures."""
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(encode_png(np.zeros((8, 8, 3), dtype=np.uint8)))
    left_out = LeftOut()
    assert list(left_out.kept(Folder(path=str(tmp_path)).documents())) == []
    error = left_out.nothing("no pictures", "pictures")
    assert "8 left out: 8 CAPTION_MISSING (0.png: no caption)" in error.why
    assert "missing_caption" in error.fix
