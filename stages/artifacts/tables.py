"""The integer tables of Tokens and Sequences with their columns by name. A table is a view: what is written into a column is
written into the array, and the array is what is on disk.

    documents of a row    row, start, length, document, caption_dropped, image_first
    images of a row       row, start, patches, latent_row, grid, entry
    segments              kind, start or latent_row, length or grid, ok
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

IntArray = np.ndarray[Any, np.dtype[np.int64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


class Column:
    """Column `index` of a table: int64, shape (n,)."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __get__(self, table: Table, owner: type[Table] | None = None) -> IntArray:
        return table.values[:, self.index]


@dataclass(frozen=True)
class Table:
    """values: int64, shape (n, columns)."""

    values: IntArray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, index: IntArray) -> Self:
        """The rows of `index`, in that order."""
        return type(self)(self.values[index])


class DocumentTable(Table):
    """Where documents are in packed rows. start: first element in the row; length: in elements; document: index over Tokens;
    caption_dropped: 1 where the text of a pair was left out; image_first: 1 where the document starts with an image."""

    row = Column(0)
    start = Column(1)
    length = Column(2)
    document = Column(3)
    caption_dropped = Column(4)
    image_first = Column(5)


class ImageTable(Table):
    """Where images are in packed rows. start: first patch in the row; patches: their number; latent_row, grid: of Latents;
    entry: index of the image's document in the table of documents."""

    row = Column(0)
    start = Column(1)
    patches = Column(2)
    latent_row = Column(3)
    grid = Column(4)
    entry = Column(5)


class SegmentTable(Table):
    """Segments of documents. kind: TEXT or IMAGE. Of a text, start and length in the text ids; of an image, latent_row and grid
    of Latents. ok: 0 for a picture that could not be encoded."""

    kind = Column(0)
    start = Column(1)
    latent_row = Column(1)
    length = Column(2)
    grid = Column(2)
    ok = Column(3)
