"""A packed row as spans that a person can read: reads Sequences with their Tokens and Latents. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from stages.artifacts.latents import Latents, StoredImage
from stages.artifacts.sequences import RowTable, Sequences, Side
from stages.artifacts.tokens import Tokens
from stages.coders.text import TextCoder
from stages.core.errors import ExitCode, TfcliError

Kind = Literal["bos", "eos", "boi", "eoi", "size", "text", "image", "unused"]


@dataclass(frozen=True)
class Place:
    """A picture in a row: its index in Latents, its grid in patches, and the name that its source gave it."""

    row: int
    grid: int
    patches_high: int
    patches_wide: int
    name: str


@dataclass(frozen=True)
class Span:
    """`length` elements of a row from `start` on. text: of a text span; image: of an image span."""

    kind: Kind
    start: int
    length: int
    text: str = ""
    image: Place | None = None


@dataclass(frozen=True)
class PackedDocument:
    """A document, or a piece of one, as a row holds it. index: over Tokens; key: of the source, "" for a text corpus."""

    index: int
    key: str
    start: int
    length: int
    caption_dropped: bool
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class PackedRow:
    """unused: places behind the last document."""

    side: Side
    row: int
    length: int
    documents: tuple[PackedDocument, ...]
    unused: int


def read_rows(sequences: Sequences, side: Side, rows: range) -> list[PackedRow]:
    """Rows of a side. Raises TfcliError: USAGE for a row that is not there, ARTIFACT where tokens or latents have changed."""
    table = sequences.split(side)
    number = len(table.ids)
    if rows and (rows[0] < 0 or rows[-1] >= number):
        known = f"{side} has the rows 0 to {number - 1}" if number else f"{side} has no rows"
        raise TfcliError(f"no row {rows[-1] if rows[0] >= 0 else rows[0]}", why=known, code=ExitCode.USAGE)
    latents = Latents.open(sequences.latents_folder())
    tokens = Tokens.open(sequences.tokens_folder())
    wanted = {int(entry[3]) for row in rows for entry in _entries(table.documents, table.row_documents, row)}
    names = _names(latents, {index for index in wanted if index < tokens.content.num_latent_documents})
    reader = _Reader(sequences, table, tokens.text_coder(), *names)
    return [reader.row(side, row) for row in rows]


@dataclass(frozen=True)
class _Reader:
    sequences: Sequences
    table: RowTable
    coder: TextCoder
    keys: dict[int, str]
    pictures: dict[int, str]

    def row(self, side: Side, row: int) -> PackedRow:
        ids = np.asarray(self.table.ids[row])
        images = {int(entry[1]): entry for entry in _entries(self.table.images, self.table.row_images, row)}
        documents = tuple(
            self._document(ids, images, entry)
            for entry in _entries(self.table.documents, self.table.row_documents, row)
        )
        end = max((document.start + document.length for document in documents), default=0)
        return PackedRow(side, row, len(ids), documents, len(ids) - end)

    def _document(self, ids: np.ndarray[Any, Any], images: dict[int, Any], entry: Any) -> PackedDocument:
        start, length, index = (int(value) for value in entry[1:4])
        spans = tuple(self._spans(ids, images, start, start + length))
        return PackedDocument(index, self.keys.get(index, ""), start, length, bool(entry[4]), spans)

    def _spans(self, ids: np.ndarray[Any, Any], images: dict[int, Any], start: int, end: int) -> Iterator[Span]:
        content = self.sequences.content
        special_tokens: dict[int, Kind] = {
            content.bos: "bos",
            content.eos: "eos",
            content.boi: "boi",
            content.eoi: "eoi",
        }
        special_tokens |= dict.fromkeys(content.size_ids().values(), "size")
        index = start
        while index < end:
            if index in images:
                yield self._image(images[index])
                index += int(images[index][2])
                continue
            kind = special_tokens.get(int(ids[index]))
            if kind is not None:
                yield Span(kind, index, 1)
                index += 1
                continue
            stop = index
            while stop < end and stop not in images and int(ids[stop]) not in special_tokens:
                stop += 1
            yield Span("text", index, stop - index, self.coder.decode([int(token) for token in ids[index:stop]]))
            index = stop

    def _image(self, entry: Any) -> Span:
        _, start, patches, row, grid, _ = (int(value) for value in entry)
        side, size = self.sequences.content.patch_side, self.sequences.content.grids[grid]
        where = Place(row, grid, size.height // side, size.width // side, self.pictures.get(row, ""))
        return Span("image", start, patches, image=where)


def _entries(table: Any, offsets: Any, row: int) -> Any:
    return table[int(offsets[row]) : int(offsets[row + 1])]


def _names(latents: Latents, wanted: set[int]) -> tuple[dict[int, str], dict[int, str]]:
    """Keys by document and names of pictures by row of latents, for the wanted documents."""
    keys: dict[int, str] = {}
    pictures: dict[int, str] = {}
    if wanted:
        for document in latents.documents():
            if document.index in wanted:
                keys[document.index] = document.key
                found = [segment for segment in document.segments if isinstance(segment, StoredImage)]
                pictures.update({image.row: image.name for image in found})
            if len(keys) == len(wanted):
                break
    return keys, pictures
