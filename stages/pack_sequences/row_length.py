"""pack.row_length = "auto": the row length by the lengths of the documents.

The smallest of CHOICES that holds all documents but 1 in 200 and whose rows are 75 % full; the fullest that holds them where none
is as full; the largest where none holds them. Shorter rows make cheaper steps, and a row that is mostly padding wastes them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stages.artifacts.rows import Frames
from stages.artifacts.tables import IntArray, SegmentTable
from stages.artifacts.tokens import IMAGE, Tokens
from stages.pack_sequences.config import PackConfig
from stages.pack_sequences.fit import best_fit
from stages.pack_sequences.layout import Units

CHOICES = (256, 512, 1024, 2048, 4096)
_LONGER = 200  # one document in so many may be longer than a row
_FULL = 0.75
_PACKED = (
    2_000,
    20_000,
)  # documents that are packed on trial for each choice: fewer are repeated, of more a part is taken


@dataclass(frozen=True)
class RowLength:
    """What was derived. documents: that count; longer: how many of them do not fit; longest: elements of the longest; fill: share
    of the rows that documents take."""

    length: int
    documents: int
    longer: int
    longest: int
    fill: float

    def text(self) -> str:
        """In one line, for people."""
        if not self.documents:
            return f"row length {self.length:,}: no document says more"
        if self.longer:
            why = (
                f"{self.longer:,} of {self.documents:,} documents are longer, the longest has {self.longest:,} elements"
            )
        else:
            why = f"the longest document has {self.longest:,} elements"
        return f"row length {self.length:,}: {why}"

    def record(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)


def row_length_for(lengths: IntArray) -> RowLength:
    """The row length for documents of these numbers of elements."""
    allowed = len(lengths) // _LONGER
    found = [_tried(lengths, choice) for choice in CHOICES]
    holding = [choice for choice in found if choice.longer <= allowed] or found[-1:]
    return next((choice for choice in holding if choice.fill >= _FULL), max(holding, key=lambda choice: choice.fill))


def document_lengths(source: Tokens, pack: PackConfig, frames: Frames) -> IntArray:
    """Elements of each document that asks for a row: with an image, none of which has failed; or text that is not split."""
    count = source.content.num_documents
    whole = np.ones(count, dtype=bool)
    units = Units(np.arange(count), whole, whole, source.array("offsets"), source.array("segments"))
    owner, segments = np.repeat(np.arange(count), np.diff(units.offsets)), SegmentTable(units.segments)
    counts = np.diff(units.offsets) > 0
    counts[owner[(segments.kind == IMAGE) & (segments.ok == 0)]] = False
    has_image = np.zeros(count, dtype=bool)
    has_image[owner[segments.kind == IMAGE]] = True
    if pack.too_long_text == "split" and (counts & has_image).any():
        counts &= has_image
    lengths: IntArray = units.lengths(frames)[counts]
    return lengths


def _tried(lengths: IntArray, choice: int) -> RowLength:
    fitting = lengths[lengths <= choice]
    fewest, most = _PACKED
    sample = np.resize(fitting[:: -(-len(fitting) // most) or 1], max(len(fitting), fewest) if len(fitting) else 0)
    _, _, rows = best_fit(sample, choice)
    fill = float(sample.sum()) / (choice * rows) if rows else 0.0
    return RowLength(choice, len(lengths), len(lengths) - len(fitting), int(lengths.max(initial=0)), fill)
