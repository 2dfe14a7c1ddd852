"""A source cut into shards: which pictures and documents belong to each. Writes the documents, `documents/<shard>.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.artifacts.latents import DOCUMENTS
from stages.core.files import GrowingFile, json_line
from stages.sources.document import Document, ImageSegment, Omission, Source, TextSegment


@dataclass(frozen=True)
class Shard:
    """Rows first_row .. first_row + len(images). Can be pickled."""

    number: int
    first_row: int
    images: list[tuple[str, ImageSegment]] = field(default_factory=list)  # key of the document, image
    omissions: list[Omission] = field(default_factory=list)


def documents_file(shard: int) -> str:
    return f"{DOCUMENTS}/{shard:05d}.jsonl"


def cut_shards(source: Source, size: int, folder: Path, wanted: Callable[[int], bool]) -> Iterator[Shard]:
    """The source cut into shards of `size` rows. A document is in the shard of its first row, one without images in
    the shard of the row before it; omissions lie where the source reports them.

    Documents of wanted shards are written below `folder` as they come, and are whole when their shard is yielded; those of
    the others are passed over. None is kept in memory: between two pictures there may be any amount of text.
    """
    cut = _Cut(folder, wanted)
    try:
        for item in source.documents():
            if isinstance(item, Omission):
                cut.shard.omissions.append(item)
                continue
            if item.images and len(cut.shard.images) == size:
                yield cut.ended()
            cut.write(item)
            for image in item.images:
                if len(cut.shard.images) == size:
                    yield cut.ended()
                cut.shard.images.append((item.key, image))
        yield cut.ended()
    finally:
        cut.discard()


class _Cut:
    """The shard that is being cut, with the file of its documents where they are wanted."""

    def __init__(self, folder: Path, wanted: Callable[[int], bool]) -> None:
        self._folder = folder
        self._wanted = wanted
        self._file: GrowingFile | None = None
        self._begin(0, 0)

    def write(self, document: Document) -> None:
        if (file := self._open()) is not None:
            file.write(json_line(_document_row(self.shard.first_row + len(self.shard.images), document)))

    def ended(self) -> Shard:
        """The shard, with its documents in place; the next one begins."""
        whole = self.shard
        if (file := self._open()) is not None:  # a shard may have pictures of the document before it alone
            file.keep()
        self._begin(whole.number + 1, whole.first_row + len(whole.images))
        return whole

    def discard(self) -> None:
        if self._file is not None:
            self._file.discard()

    def _begin(self, number: int, first_row: int) -> None:
        self.shard = Shard(number, first_row)
        self._file = None
        self._is_wanted = self._wanted(number)

    def _open(self) -> GrowingFile | None:
        if self._is_wanted and self._file is None:
            self._file = GrowingFile(self._folder / documents_file(self.shard.number))
        return self._file


def _document_row(first_row: int, document: Document) -> dict[str, Any]:
    segments: list[dict[str, Any]] = []
    row = first_row
    for segment in document.segments:
        if isinstance(segment, TextSegment):
            segments.append({"text": segment.text})
            continue
        segments.append({"image": row, "name": segment.name})
        row += 1
    return {
        "key": document.key,
        "source": document.source,
        "group": document.group,
        "fixed_order": document.fixed_order,
        "heldout": document.heldout,
        **({} if document.has_heldout_loss else {"has_heldout_loss": False}),
        "facts": document.labels,
        "segments": segments,
    }
