"""A source is cut into the same shards whoever makes them, and text without pictures is never held in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stages.core.files import read_jsonl
from stages.encode_images.cutting import Shard, cut_shards
from stages.sources.document import Document, ImageSegment, TextSegment
from tests.encode_images.test_stage import Png

LINE = "x" * 1000


@dataclass(frozen=True)
class Mixed:
    """`lines` texts, an album of five pictures, as many texts again. fails_at: reading ends in an error there."""

    lines: int
    fails_at: int = -1

    def documents(self) -> Iterator[Document]:
        for number in range(2 * self.lines + 1):
            if number == self.fails_at:
                raise OSError("gone")
            if number == self.lines:
                yield Document("album", tuple(ImageSegment(f"{place}.png", Png(place, False)) for place in range(5)))
            else:
                yield Document(f"line{number}", (TextSegment(f"{number} {LINE}"),))


def cut(folder: Path, source: Any, wanted: Any = lambda _: True) -> list[Shard]:
    (folder / "documents").mkdir(parents=True)
    return list(cut_shards(source, 2, folder, wanted))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "documents").iterdir())


def test_every_document_lies_in_the_shard_of_its_first_row(tmp_path: Path) -> None:
    shards = cut(tmp_path, Mixed(3))
    assert [(shard.number, shard.first_row, len(shard.images)) for shard in shards] == [(0, 0, 2), (1, 2, 2), (2, 4, 1)]
    keys = [[row["key"] for row in read_jsonl(tmp_path / "documents" / name)] for name in files(tmp_path)]
    assert keys == [["line0", "line1", "line2", "album"], [], ["line4", "line5", "line6"]]
    album = list(read_jsonl(tmp_path / "documents" / "00000.jsonl"))[-1]
    assert [part["image"] for part in album["segments"]] == [0, 1, 2, 3, 4]


def test_a_document_that_begins_where_a_shard_is_full_lies_in_the_next_one(tmp_path: Path) -> None:
    albums = [
        Document(key, tuple(ImageSegment(f"{key}{place}.png", Png(place, False)) for place in range(2))) for key in "ab"
    ]
    cut(tmp_path, SimpleNamespace(documents=lambda: iter(albums)))
    keys = [[row["key"] for row in read_jsonl(tmp_path / "documents" / name)] for name in files(tmp_path)]
    assert keys == [["a"], ["b"]]


def test_a_shard_that_others_make_is_cut_alike_and_leaves_no_file(tmp_path: Path) -> None:
    whole = cut(tmp_path / "whole", Mixed(3))
    assert cut(tmp_path / "part", Mixed(3), lambda number: number == 2) == whole
    assert files(tmp_path / "part") == ["00002.jsonl"]
    last = Path("documents/00002.jsonl")
    assert (tmp_path / "part" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()


@pytest.mark.parametrize("wanted", [True, False])
def test_text_before_and_behind_the_pictures_is_not_held(tmp_path: Path, wanted: bool) -> None:
    tracemalloc.start()
    cut(tmp_path, Mixed(3000), lambda _: wanted)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    written = sum((tmp_path / "documents" / name).stat().st_size for name in files(tmp_path))
    assert (written > 6_000_000) == wanted
    assert peak < 500_000


def test_a_source_that_fails_leaves_no_half_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        cut(tmp_path, Mixed(3, fails_at=5))
    assert files(tmp_path) == ["00000.jsonl", "00001.jsonl"]
    document = Document("d", (), labels=float("nan"))
    with pytest.raises(ValueError, match="JSON compliant"):
        cut(tmp_path / "nan", SimpleNamespace(documents=lambda: iter([document])))
    assert files(tmp_path / "nan") == []
