"""Packed rows and what each must fulfil: tried on all rows when they are packed, and again whenever they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.artifacts.latents import Grid
from stages.artifacts.tables import BoolArray, DocumentTable, ImageTable, IntArray
from stages.artifacts.tokens import SpecialTokens


@dataclass(frozen=True)
class Frames:
    """What an image of each grid takes in a row: BOI, patches, EOI, and with size tokens the id of its size before BOI.

    patches: number of patches of each grid. sizes: the id of each grid's size, or None. rows: how many rows of latents each
    grid has.
    """

    patches: IntArray
    sizes: IntArray | None = None
    rows: IntArray | None = None

    @classmethod
    def of(cls, grids: Sequence[Grid], patch_side: int, size_ids: dict[tuple[int, int], int]) -> Frames:
        """size_ids: the id of each height and width, empty without size tokens."""
        patches = np.array([grid.height * grid.width // patch_side**2 for grid in grids], dtype=np.int64)
        rows = np.array([grid.rows for grid in grids], dtype=np.int64)
        sizes = np.array([size_ids[grid.height, grid.width] for grid in grids]) if size_ids else None
        return cls(patches, sizes, rows)

    @property
    def before(self) -> int:
        """Elements before the first patch."""
        return 1 if self.sizes is None else 2

    @property
    def lengths(self) -> IntArray:
        return self.patches + self.before + 1


@dataclass(frozen=True)
class Broken:
    """A rule that the rows break: which, and the first row (-1: of the whole table)."""

    what: str
    row: int


def broken_rule(
    ids: np.ndarray[Any, np.dtype[Any]],
    documents: IntArray,
    images: IntArray,
    row_documents: IntArray,
    row_images: IntArray,
    special_tokens: SpecialTokens,
    frames: Frames,
) -> Broken | None:
    """The first broken rule. Documents are inside their row and do not overlap; images are inside their document, closed by BOI
    and EOI, after their size where there are size tokens, with as many patches as their grid has and a row of latents that
    exists; ids are in range; the entries of each row are where the table says."""
    if ids.ndim != 2 or documents.shape[1:] != (6,) or images.shape[1:] != (6,):
        return Broken("an array has another shape", -1)
    document_table, image_table = DocumentTable(documents), ImageTable(images)
    # in three parts: each makes sure that the next one's look-ups are in range
    for rules in (_in_range, _inside, _delimited):
        for broken, rows, what in rules(ids, document_table, image_table, special_tokens, frames):
            if np.any(broken):
                return Broken(what, int(np.broadcast_to(rows, broken.shape)[np.argmax(broken)]))
    for row, offsets, name in (
        (document_table.row, row_documents, "documents"),
        (image_table.row, row_images, "images"),
    ):
        if not np.array_equal(offsets, np.searchsorted(row, np.arange(len(ids) + 1))):
            return Broken(f"the {name} of the rows are not where the table says", -1)
    return None


Rules = Iterator[tuple[BoolArray, IntArray, str]]


def _in_range(
    ids: IntArray, documents: DocumentTable, images: ImageTable, special_tokens: SpecialTokens, frames: Frames
) -> Rules:
    num_rows, length = ids.shape
    vocab_size = special_tokens.vocab_size
    if frames.sizes is not None:
        vocab_size = max(vocab_size, int(frames.sizes.max()) + 1)
    if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
        yield np.any((ids < 0) | (ids >= vocab_size), axis=1), np.arange(num_rows), "an id is out of range"
    for row, name in ((documents.row, "a document"), (images.row, "an image")):
        yield (row < 0) | (row >= num_rows), row, f"{name} is in no row"
        yield row[1:] < row[:-1], row[1:], f"{name} is out of order"
    start, size = documents.start, documents.length
    yield size < 1, documents.row, "a document has no elements"
    outside = (start < 0) | (start > length) | (size > length - start)
    yield outside, documents.row, "a document crosses the end of its row"
    grid = images.grid
    yield (grid < 0) | (grid >= len(frames.patches)), images.row, "an image has no grid"
    yield (images.entry < 0) | (images.entry >= len(documents)), images.row, "an image has no document"


def _inside(
    ids: IntArray, documents: DocumentTable, images: ImageTable, special_tokens: SpecialTokens, frames: Frames
) -> Rules:
    del ids, special_tokens
    ends = documents.start + documents.length
    same = documents.row[1:] == documents.row[:-1]
    yield same & (documents.start[1:] < ends[:-1]), documents.row[1:], "documents overlap"
    rows, first, grid = images.row, images.start, images.grid
    yield images.patches != frames.patches[grid], rows, "an image has not the patches of its grid"
    yield images.latent_row < 0, rows, "an image has no row of latents"
    if frames.rows is not None:
        yield images.latent_row >= frames.rows[grid], rows, "an image has no row of latents"
    owner = documents.take(images.entry)
    yield rows != owner.row, rows, "an image is in another row than its document"
    last = first + images.patches
    outside = (first < owner.start + frames.before) | (last >= owner.start + owner.length)
    yield outside, rows, "an image is outside its document"
    yield (rows[1:] == rows[:-1]) & (first[1:] <= last[:-1]), rows[1:], "images overlap"


def _delimited(
    ids: IntArray, documents: DocumentTable, images: ImageTable, special_tokens: SpecialTokens, frames: Frames
) -> Rules:
    del documents
    rows, first, last = images.row, images.start, images.start + images.patches
    yield ids[rows, first - 1] != special_tokens.boi, rows, "there is an image without BOI"
    yield ids[rows, last] != special_tokens.eoi, rows, "there is an image without EOI"
    each = np.arange(len(ids))
    counts = np.bincount(rows, minlength=len(ids))
    if frames.sizes is not None:
        yield ids[rows, first - 2] != frames.sizes[images.grid], rows, "there is an image without its size"
        yield np.isin(ids, frames.sizes).sum(1) != counts, each, "there is a size without an image"
    yield (ids == special_tokens.boi).sum(1) != counts, each, "there is a BOI without an image"
    yield (ids == special_tokens.eoi).sum(1) != counts, each, "there is an EOI without an image"
