"""Sequences: packed rows of a fixed length, on a training and a held-out side; and "late", other rows for the end of training.

    <side>/ids             int32 (rows, row_length); the elements of patches and unused ones hold `pad`
    <side>/documents       int64 (n, 6): row, start, length, document, caption dropped, begins with an image
    <side>/images          int64 (n, 6): row, start of the first patch, patches, row of latents, grid, entry in documents
    <side>/row_documents, <side>/row_images   int64 (rows + 1): the entries of each row
    heldout_documents.jsonl   the documents of the held-out side
    report.json, report.txt, lengths.png   fill, waste, what was left out and why; histogram of lengths

A document is bos, its segments (text ids; or boi, patches, eoi, with size tokens the image's size before boi), eos.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stages.artifacts.arrays import flat_files, write_flat
from stages.artifacts.checked import CheckedFiles
from stages.artifacts.form import Form
from stages.artifacts.latents import Grid
from stages.artifacts.manifest import Manifest, open_artifact, open_input, read_content
from stages.artifacts.rows import Broken, Frames, broken_rule
from stages.artifacts.schema import Schema
from stages.artifacts.tables import ImageTable, IntArray
from stages.artifacts.tokens import SpecialTokens
from stages.core.errors import ExitCode, TfcliError

HELDOUT_DOCUMENTS, HISTOGRAM = "heldout_documents.jsonl", "lengths.png"
REPORT, REPORT_TEXT = "report.json", "report.txt"
TABLES = ("ids", "documents", "images", "row_documents", "row_images")
Side = Literal["train", "heldout", "late"]
SIDES: tuple[Side, ...] = ("train", "heldout", "late")
SCHEMA = Schema(2)
# The most that statistics are made of; a shard is read whole, for its sum.
_MEASURED_LATENTS, _MEASURED_SHARDS = 4096, 64
FORM = Form(
    files=(
        *(file for side in SIDES for name in TABLES for file in flat_files(f"{side}/{name}")),
        HELDOUT_DOCUMENTS,
        REPORT,
        REPORT_TEXT,
        HISTOGRAM,
    ),
)


class SequencesContent(SpecialTokens):
    """What the model needs to know: vocabulary and special tokens, grids, statistics of the latents.

    channel_mean, channel_std: of draws from the posterior, per channel, over pictures of the sides "train" and "late".
    late_rows: 0 without that side. size_tokens: the last ids of the vocabulary stand for sizes of latents; one precedes the
    BOI of each image.
    """

    row_length: int
    patch_side: int
    latent_channels: int
    picture_size: int
    grids: list[Grid]
    channel_mean: list[float]
    channel_std: list[float]
    num_rows: int
    heldout_rows: int
    late_rows: int = 0
    passes: int
    size_tokens: bool = False

    def size_ids(self) -> dict[tuple[int, int], int]:
        """The id of each size (h, w) of latents, in the order of the grids; empty without size tokens."""
        if not self.size_tokens:
            return {}
        sizes = distinct_sizes(self.grids)
        return {size: self.vocab_size - len(sizes) + number for number, size in enumerate(sizes)}


def distinct_sizes(grids: list[Grid]) -> list[tuple[int, int]]:
    """Height and width of the grids, each once: mirrored pictures have the size of their originals."""
    return list(dict.fromkeys((grid.height, grid.width) for grid in grids))


@dataclass(frozen=True)
class RowTable:
    """One side in memory; see the file's docstring for the columns."""

    ids: np.ndarray[Any, np.dtype[Any]]
    documents: IntArray
    images: IntArray
    row_documents: IntArray
    row_images: IntArray

    def write(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        for name in TABLES:
            write_flat(folder / name, getattr(self, name))

    def broken_rule(self, special_tokens: SpecialTokens, frames: Frames) -> Broken | None:
        """The first rule for packed rows that is broken."""
        arrays = (self.ids, self.documents, self.images, self.row_documents, self.row_images)
        return broken_rule(*arrays, special_tokens, frames)


def measured_latents(tables: Iterable[RowTable], shard_rows: int) -> Iterator[tuple[int, IntArray]]:
    """(grid, rows of latents) of the pictures of some sides, each once; of more than 4,096 of them, or more than 64 shards, an
    even choice. What is measured of them may not see the held-out side, whose losses would know of it.

    Args:
        tables: of the sides that a model is trained on.
        shard_rows: rows of latents in a shard.
    """
    images = ImageTable(np.concatenate([table.images for table in tables]))
    used = np.unique(np.stack([images.grid, images.latent_row], 1), axis=0)
    _, shard = np.unique(used // np.array([1, shard_rows]), axis=0, return_inverse=True)
    used = used[np.isin(shard.ravel(), _even_choice(int(shard.max(initial=-1)) + 1, _MEASURED_SHARDS))]
    used = used[_even_choice(len(used), _MEASURED_LATENTS)]
    for grid in np.unique(used[:, 0]):
        yield int(grid), used[used[:, 0] == grid, 1]


def _even_choice(count: int, most: int) -> IntArray:
    """At most `most` of the numbers from 0 to count - 1, first and last among them."""
    return np.unique(np.linspace(0, max(0, count - 1), min(count, most)).astype(np.int64))


@dataclass(frozen=True)
class Sequences:
    """Sealed sequences."""

    folder: Path
    manifest: Manifest
    content: SequencesContent

    @classmethod
    def open(cls, folder: Path) -> Sequences:
        manifest = open_artifact(folder, "sequences")
        return cls(folder, manifest, read_content(folder, manifest, SequencesContent))

    def split(self, side: Side) -> RowTable:
        """The rows of one side. Raises TfcliError (ARTIFACT) where they are not as packing writes them: bytes or content."""
        files, content = CheckedFiles(self.folder, self.manifest), self.content
        table = RowTable(**{name: files.flat(f"{side}/{name}") for name in TABLES})
        broken = table.broken_rule(content, Frames.of(content.grids, content.patch_side, content.size_ids()))
        wanted = (
            {"train": content.num_rows, "heldout": content.heldout_rows, "late": content.late_rows}[side],
            content.row_length,
        )
        if broken is None and table.ids.shape != wanted:
            broken = Broken(f"there are {table.ids.shape} rows and columns, the manifest says {wanted}", -1)
        if broken is not None:
            where = self.folder / side if broken.row < 0 else f"{self.folder / side}, row {broken.row}"
            fix = "run 'tfcli pack --force' to make it again"
            raise TfcliError(f"{where}: cannot be used", why=broken.what, fix=fix, code=ExitCode.ARTIFACT)
        return table

    def heldout_documents(self) -> Iterator[int]:
        """Indices (over Tokens, and so over Latents) of the documents on the held-out side."""
        for row in CheckedFiles(self.folder, self.manifest).lines(HELDOUT_DOCUMENTS, {"document": (int,)}):
            yield row["document"]

    def tokens_folder(self) -> Path:
        return open_input(self.folder, self.manifest, "tokens")[0]

    def latents_folder(self) -> Path:
        return open_input(self.folder, self.manifest, "latents")[0]
