"""A packed row as its spans: marks, text, images, documents, padding. Reads Sequences, Tokens, Latents; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from stages.artifacts.latents import Latents, StoredImage
from stages.artifacts.sequences import Sequences, Side
from stages.artifacts.tokens import Tokens
from stages.core.errors import ExitCode, TfcliError

Kind = Literal["bos", "eos", "boi", "eoi", "text", "image", "padding"]


@dataclass(frozen=True)
class Span:
    """Elements start .. start + length of a row. shown: the text, or what the image is; document: its key."""

    kind: Kind
    start: int
    length: int
    shown: str
    document: str


def row_spans(folder: Path, side: Side, row: int) -> list[Span]:
    """The spans of row `row` of a side. Raises TfcliError (USAGE) where there is no such row."""
    sequences = Sequences.open(folder)
    table = sequences.split(side)
    if not 0 <= row < len(table.ids):
        raise TfcliError(
            f"no row {row} on the {side} side", fix=f"give a row from 0 to {len(table.ids) - 1}", code=ExitCode.USAGE
        )
    tokens = Tokens.open(sequences.tokens_folder())
    coder = tokens.text_coder()
    names = _Names(sequences, tokens)
    ids = table.ids[row]
    marks: dict[int, Kind] = {coder.bos: "bos", coder.eos: "eos", coder.boi: "boi", coder.eoi: "eoi"}
    images = table.images[table.row_images[row] : table.row_images[row + 1]]
    image_at = {int(image[1]): image for image in images}
    spans: list[Span] = []
    end = 0
    for entry in table.documents[table.row_documents[row] : table.row_documents[row + 1]]:
        start, length, document = int(entry[1]), int(entry[2]), int(entry[3])
        key = names.key(document)
        place = start
        while place < start + length:
            if place in image_at:
                image = image_at[place]
                spans.append(Span("image", place, int(image[2]), names.image(int(image[3]), int(image[4])), key))
            elif int(ids[place]) in marks:
                spans.append(Span(marks[int(ids[place])], place, 1, "", key))
            else:
                stop = place
                while stop < start + length and stop not in image_at and int(ids[stop]) not in marks:
                    stop += 1
                spans.append(Span("text", place, stop - place, coder.decode(ids[place:stop].tolist()), key))
            place += spans[-1].length
        end = max(end, start + length)
    if end < len(ids):
        spans.append(Span("padding", end, len(ids) - end, "", ""))
    return spans


class _Names:
    """Keys of documents and names of pictures, read once."""

    def __init__(self, sequences: Sequences, tokens: Tokens) -> None:
        self._grids = sequences.content.grids
        self._from_latents = tokens.content.num_latent_documents
        self._keys: list[str] = []
        self._pictures: dict[int, str] = {}
        for document in Latents.open(sequences.latents_folder()).documents():
            self._keys.append(document.key)
            self._pictures |= {part.row: part.name for part in document.segments if isinstance(part, StoredImage)}

    def key(self, document: int) -> str:
        if document < self._from_latents:
            return self._keys[document]
        return f"text document {document - self._from_latents}"

    def image(self, row: int, grid: int) -> str:
        return f"{self._pictures.get(row, '?')}, row {row} of latents {self._grids[grid].name}"


def documents_of(folder: Path, side: Side, count: int) -> list[tuple[int, int, int]]:
    """(document, row of latents, grid) of the first `count` images of a side, each picture once."""
    table = Sequences.open(folder).split(side)
    found: dict[int, tuple[int, int, int]] = {}
    for image in table.images:
        document = int(table.documents[int(image[5]), 3])
        found.setdefault(int(image[3]), (document, int(image[3]), int(image[4])))
        if len(found) == count:
            break
    return [found[row] for row in np.array(list(found), dtype=np.int64).tolist()]
