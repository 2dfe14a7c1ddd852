"""Documents -> elements: which segments a document shows in a pass, in which order, and how long that is. Vectorised.

A unit is what is packed whole: a document, or a piece of a text that is longer than a row. Segments are (kind, start or
row, length or grid, ok) as in Tokens (artifacts/tables.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.artifacts.rows import Frames
from stages.artifacts.sequences import RowTable
from stages.artifacts.tables import BoolArray, DocumentTable, ImageTable, IntArray, SegmentTable
from stages.artifacts.tokens import IMAGE, TEXT, SpecialTokens


@dataclass(frozen=True)
class Units:
    """document, bos, eos: per unit. The segments of unit u are segments[offsets[u]:offsets[u + 1]]."""

    document: IntArray
    bos: BoolArray
    eos: BoolArray
    offsets: IntArray
    segments: IntArray

    def __len__(self) -> int:
        return len(self.document)

    def take(self, chosen: IntArray) -> Units:
        """The chosen units, in that order."""
        counts = np.diff(self.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        source = np.repeat(self.offsets[chosen] - offsets[:-1], counts) + np.arange(offsets[-1])
        return Units(self.document[chosen], self.bos[chosen], self.eos[chosen], offsets, self.segments[source])

    def lengths(self, frames: Frames) -> IntArray:
        """Elements of each unit."""
        own = segment_lengths(self.segments, frames)
        total = np.concatenate([[0], np.cumsum(own)])
        lengths: IntArray = total[self.offsets[1:]] - total[self.offsets[:-1]] + self.bos + self.eos
        return lengths

    def pairs(self) -> BoolArray:
        """Units of exactly one text and one image."""
        two = np.diff(self.offsets) == 2
        first = np.where(two, self.offsets[:-1], 0)
        kinds = SegmentTable(self.segments).kind if len(self.segments) else np.zeros(2, np.int64)
        pairs: BoolArray = two & (kinds[first] != kinds[np.minimum(first + 1, len(kinds) - 1)])
        return pairs


def segment_lengths(segments: IntArray, frames: Frames) -> IntArray:
    """Elements of each segment; an image has its patches and the special tokens around them."""
    table = SegmentTable(segments)
    is_text = table.kind == TEXT
    grid = np.where(is_text, 0, table.grid)
    return np.where(is_text, table.length, frames.lengths[grid])


def ordered(units: Units, free_order: BoolArray, text_first: BoolArray, dropped: BoolArray) -> Units:
    """The units in the order of this pass: pairs of free order text first or image first, dropped ones without their text."""
    pairs = units.pairs() & free_order
    counts = np.diff(units.offsets)
    owner = np.repeat(np.arange(len(units)), counts)
    index = np.arange(len(units.segments)) - units.offsets[owner]
    is_text = SegmentTable(units.segments).kind == TEXT
    wanted = np.where(pairs[owner], np.where(is_text == text_first[owner], 0, 1), index)
    order = np.lexsort((wanted, owner))
    keep = ~(dropped & pairs)[owner[order]] | ~is_text[order]
    kept = order[keep]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner[kept], minlength=len(units)))])
    return Units(units.document, units.bos, units.eos, offsets, units.segments[kept])


def begins_with_image(units: Units) -> BoolArray:
    """Whether a unit's first segment is an image."""
    has_any = np.diff(units.offsets) > 0
    first = np.where(has_any, units.offsets[:-1], 0)
    if not len(units.segments):
        return has_any
    image_first: BoolArray = has_any & (SegmentTable(units.segments).kind[first] == IMAGE)
    return image_first


def write_rows(
    units: Units,
    dropped: BoolArray,
    rows: IntArray,
    starts: IntArray,
    num_rows: int,
    row_length: int,
    frames: Frames,
    ids: IntArray,
    special_tokens: SpecialTokens,
) -> RowTable:
    """The table of one side: units at their rows and starts."""
    order = np.lexsort((starts, rows))
    units, dropped, rows, starts = units.take(order), dropped[order], rows[order], starts[order]
    lengths = units.lengths(frames)
    table = np.full(num_rows * row_length, special_tokens.pad, dtype=np.int32)
    first = rows * row_length + starts
    table[first[units.bos]] = special_tokens.bos
    table[(first + lengths - 1)[units.eos]] = special_tokens.eos
    owner = np.repeat(np.arange(len(units)), np.diff(units.offsets))
    own = segment_lengths(units.segments, frames)
    before = np.concatenate([[0], np.cumsum(own)])
    offset = first[owner] + units.bos[owner] + before[:-1] - before[units.offsets[owner]]
    is_text = SegmentTable(units.segments).kind == TEXT
    text, text_offset = SegmentTable(units.segments[is_text]), offset[is_text]
    total = np.concatenate([[0], np.cumsum(text.length)])
    run = np.repeat(np.arange(len(text)), text.length)
    inside = np.arange(total[-1]) - total[run]
    table[text_offset[run] + inside] = ids[text.start[run] + inside]
    image, image_offset = SegmentTable(units.segments[~is_text]), offset[~is_text]
    image_owner = owner[~is_text]
    first_patch, patches = image_offset + frames.before, frames.patches[image.grid]
    if frames.sizes is not None:
        table[image_offset] = frames.sizes[image.grid]
    table[first_patch - 1] = special_tokens.boi
    table[first_patch + patches] = special_tokens.eoi
    documents = np.stack(
        [rows, starts, lengths, units.document, dropped.astype(np.int64), begins_with_image(units).astype(np.int64)], 1
    )
    images = np.stack(
        [
            rows[image_owner],
            first_patch - rows[image_owner] * row_length,
            patches,
            image.latent_row,
            image.grid,
            image_owner,
        ],
        1,
    )
    return RowTable(
        table.reshape(num_rows, row_length),
        documents,
        images,
        np.searchsorted(DocumentTable(documents).row, np.arange(num_rows + 1)),
        np.searchsorted(ImageTable(images).row, np.arange(num_rows + 1)),
    )
