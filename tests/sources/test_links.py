"""Symbolic links in the folders of every source: counted, named, followed on request; suffixes in any case; forms of Unicode."""

from __future__ import annotations

import io
import json
import os
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.coders.pixels import encode_png
from stages.core.config import result_config
from stages.core.errors import ExitCode, TfcliError
from stages.doctor.guess import guess_source
from stages.sources.document import Document, Omission
from stages.sources.files import Names
from stages.sources.folder import Folder
from stages.sources.jsonl import Jsonl
from stages.sources.parquet import Parquet
from stages.sources.text import TextFiles
from stages.sources.text_table import TextTable
from stages.sources.webdataset import Webdataset

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

PNG = encode_png(np.zeros((8, 8, 3), dtype=np.uint8))


def write_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in (("0.png", PNG), ("0.txt", b"a")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def write_table(path: Path) -> None:
    pq.write_table(pa.table({"image": [PNG], "text": ["a"]}), path)


def write_picture(path: Path) -> None:
    path.write_bytes(PNG)


# suffix, writer, source
KINDS: dict[str, tuple[str, Callable[[Path], Any], Any]] = {
    "webdataset": (".tar", write_tar, Webdataset),
    "parquet": (".parquet", write_table, Parquet),
    "text": (".txt", lambda path: path.write_text("a"), TextFiles),
    "table": (".jsonl", lambda path: path.write_text('{"text": "a"}'), TextTable),
    "folder": (".png", write_picture, lambda **options: Folder(missing_caption="empty", **options)),
}


def split(source: Any) -> tuple[int, list[tuple[str, str]]]:
    items = list(source.documents())
    left_out = [(item.path, item.reason) for item in items if isinstance(item, Omission)]
    return sum(isinstance(item, Document) for item in items), left_out


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_link_among_files_is_named_and_followed_on_request(tmp_path: Path, kind: str) -> None:
    suffix, write, source = KINDS[kind]
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    write(tmp_path / "in" / f"a{suffix}")
    write(tmp_path / "blob")
    write(tmp_path / "out" / f"deep{suffix}")
    os.symlink(tmp_path / "blob", tmp_path / "in" / f"b{suffix}")
    os.symlink(tmp_path / "out", tmp_path / "in" / "more")
    assert split(source(path=str(tmp_path / "in"))) == (1, [(f"b{suffix}", "SKIPPED_LINK"), ("more", "SKIPPED_LINK")])
    assert split(source(path=str(tmp_path / "in"), follow_links=True)) == (3, [])
    before = source(path=str(tmp_path / "in"), follow_links=True).identity()
    assert before != source(path=str(tmp_path / "in")).identity()


def test_where_links_are_all_there_is_the_error_says_so(tmp_path: Path, kind: str) -> None:
    """As the cache of a hub has them."""
    suffix, write, source = KINDS[kind]
    (tmp_path / "in").mkdir()
    write(tmp_path / "blob")
    os.symlink(tmp_path / "blob", tmp_path / "in" / f"b{suffix}")
    with pytest.raises(TfcliError) as caught:
        list(source(path=str(tmp_path / "in")).documents())
    assert caught.value.code == ExitCode.INPUT
    assert f"1 passed over: SKIPPED_LINK, e.g. b{suffix}" in caught.value.why
    assert "--set source.follow_links=true" in caught.value.fix
    if kind != "table":
        assert guess_source(str(tmp_path / "in")).source.kind == kind


def test_suffixes_are_compared_without_case(tmp_path: Path, kind: str) -> None:
    suffix, write, source = KINDS[kind]
    write(tmp_path / f"a{suffix.upper()}")
    write(tmp_path / f"b{suffix}")
    assert split(source(path=str(tmp_path))) == (2, [])


def test_a_link_that_leads_to_nothing_is_named(tmp_path: Path, kind: str) -> None:
    suffix, write, source = KINDS[kind]
    write(tmp_path / f"a{suffix}")
    os.symlink(tmp_path / "none", tmp_path / f"b{suffix}")
    source = source(path=str(tmp_path), follow_links=True)
    assert split(source) == (1, [(f"b{suffix}", "SKIPPED_SPECIAL")])


def test_the_fingerprint_of_old_recipes_stays() -> None:
    for source in (Webdataset(path="x"), Parquet(path="x"), TextTable(path="x"), Jsonl(path="x")):
        assert "follow_links" not in result_config(source)


def test_a_picture_of_a_document_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "blob").write_bytes(PNG)
    os.symlink(tmp_path / "blob", tmp_path / "in" / "a.png")
    path = tmp_path / "in" / "d.jsonl"
    path.write_text(json.dumps({"id": "a", "parts": [{"image": "a.png"}]}))
    with pytest.raises(TfcliError, match="leads out of the folder") as caught:
        list(Jsonl(path=str(path)).documents())
    assert "--set source.follow_links=true" in caught.value.fix
    assert split(Jsonl(path=str(path), follow_links=True)) == (1, [])


NAME = "caf\u00e9.png"


@pytest.mark.parametrize(("disk", "said"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_the_other_form_of_unicode_are_found(tmp_path: Path, disk: Any, said: Any) -> None:
    on_disk, written = unicodedata.normalize(disk, NAME), unicodedata.normalize(said, NAME)
    assert on_disk != written
    (tmp_path / on_disk).write_bytes(PNG)
    (tmp_path / written).with_suffix(".txt").write_text("a")
    assert split(Folder(path=str(tmp_path))) == (1, [])
    (tmp_path / "d.jsonl").write_text(json.dumps({"id": "a", "parts": [{"image": written}]}))
    assert split(Jsonl(path=str(tmp_path / "d.jsonl"))) == (1, [])
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": written, "text": "a"}))
    assert split(Folder(path=str(tmp_path))) == (1, [])
    pq.write_table(pa.table({"image": [written], "text": ["a"]}), tmp_path / "t.parquet")
    assert split(Parquet(path=str(tmp_path / "t.parquet"))) == (1, [])


def test_two_candidates_are_none() -> None:
    names = Names(["A.png", "a.PNG", "b.png"])
    assert names.find("a.png") is None
    assert names.find("A.png") == "A.png"
    assert names.find("B.PNG") == "b.png"


@pytest.mark.parametrize("name", ["a.TXT", "a.caption", "A.Caption", "a.txt"])
def test_sidecars(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jpg").write_bytes(PNG)
    before = Folder(path=str(tmp_path)).identity()
    (tmp_path / name).write_text("a thing")
    assert split(Folder(path=str(tmp_path))) == (1, [])
    assert Folder(path=str(tmp_path)).identity() != before


def test_metadata_of_sub_folders(tmp_path: Path) -> None:
    """Its names are relative to its own folder, as `imagefolder` of Hugging Face has it; others have their .txt."""
    for name in ("train/a.png", "train/deep/b.png", "other/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "other" / "c.txt").write_text("c")
    rows = [{"file_name": "a.png", "text": "a"}, {"file_name": "deep/b.png", "text": "b"}]
    (tmp_path / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = Folder(path=str(tmp_path))
    assert split(source) == (3, [])
    assert "train/metadata.jsonl" in source.describe()
    before = source.identity()
    (tmp_path / "train" / "metadata.jsonl").write_text(json.dumps(rows[0]))
    assert source.identity() != before
    assert split(source) == (2, [("train/deep/b.png", "CAPTION_MISSING")])
