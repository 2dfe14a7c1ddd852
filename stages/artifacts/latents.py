"""Latents: every picture of a source as raw latents, and the documents that they belong to.

arrays/<grid>/            zarr, a row for each picture of the source: [0] posterior mean, [1] posterior deviation. A picture
                          that failed has a NaN mean in the first grid; where there are several grids (buckets of aspect),
                          each picture has its row in one of them, and that place in the others is empty (NaN)
arrays/grids              uint8: the grid of each picture, where there are several
documents/<shard>.jsonl   the documents in source order, images replaced by rows; also those with a picture that failed, which
                          packing leaves out (IMAGE_FAILED)
errors.jsonl              what was left out: key, path, reason code, message, and for a picture that failed the row that is NaN
check.png                 pictures before (above) and after (below) the stored latents; not part of the digest
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from stages.artifacts.arrays import DESCRIPTION, RowReader, flat_files
from stages.artifacts.autoencoder import Autoencoder, Identity
from stages.artifacts.checked import CheckedFiles
from stages.artifacts.form import Form
from stages.artifacts.manifest import Manifest, open_artifact, open_input, read_content
from stages.artifacts.schema import Schema
from stages.core.errors import ExitCode, TfcliError

ARRAYS, GRIDS, DOCUMENTS, ERRORS, SHEET = "arrays", "grids", "documents", "errors.jsonl", "check.png"
SCHEMA = Schema(2)
FORM = Form(
    files=(
        *(f"{ARRAYS}/{grid}/{file}" for grid in ("#x#", "#x#-mirrored") for file in (DESCRIPTION, "c/#/0/0/0/0")),
        *flat_files(f"{ARRAYS}/{GRIDS}"),
        f"{DOCUMENTS}/#.jsonl",
        ERRORS,
        SHEET,
    ),
    growing=("units/shard-#.json", "units/shard-#.lock", "units/array.lock"),
)
IntArray = np.ndarray[Any, np.dtype[Any]]


class Grid(BaseModel):
    """Latents of one size: height and width in latent pixels, rows of the array, and how many of them hold a picture.
    mirror: the grid that holds the same pictures, flipped left to right."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    height: int
    width: int
    rows: int
    pictures: int
    mirror: int | None = None


class LatentsContent(BaseModel):
    """channel_mean, channel_std: of draws from the posterior, per channel, over all good rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    autoencoder: Identity
    picture_size: int
    latent_channels: int
    downsampling: int
    num_images: int
    num_good: int
    num_documents: int
    shard_rows: int
    dtype: str
    grids: list[Grid]
    channel_mean: list[float]
    channel_std: list[float]


@dataclass(frozen=True)
class StoredText:
    """A text segment."""

    text: str


@dataclass(frozen=True)
class StoredImage:
    """An image segment: its row in the array of its grid; ok is False where the picture could not be encoded."""

    row: int
    grid: int
    name: str
    ok: bool


@dataclass(frozen=True)
class StoredDocument:
    """A document of the source; index counts over all documents in order."""

    index: int
    key: str
    group: str | None
    fixed_order: bool
    heldout: bool
    has_heldout_loss: bool
    labels: Any
    segments: tuple[StoredText | StoredImage, ...]
    source: str


def caption_of(document: StoredDocument) -> str:
    """All text of a document."""
    return "".join(segment.text for segment in document.segments if isinstance(segment, StoredText))


def with_caption(document: StoredDocument, text: str) -> StoredDocument:
    """A document of one picture and at most one text with this text, none if it is empty. One that had none gets it in
    front, and no fixed order."""
    new = (StoredText(text),) if text else ()
    if not any(isinstance(part, StoredText) for part in document.segments):
        return replace(document, segments=(*new, *document.segments), fixed_order=False)
    parts = [part for old in document.segments for part in (new if isinstance(old, StoredText) else (old,))]
    return replace(document, segments=tuple(parts))


_FIELDS = {  # of a document's row; `facts` may be anything
    "key": (str,),
    "group": (str, type(None)),
    "fixed_order": (bool,),
    "heldout": (bool,),
    "source": (str,),
    "segments": (list,),
}


@dataclass(frozen=True)
class Latents:
    """Sealed latents."""

    folder: Path
    manifest: Manifest
    content: LatentsContent
    _readers: dict[int, RowReader] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path) -> Latents:
        """The latents in `folder`. Raises TfcliError (ARTIFACT) if they are not complete or not as the manifest says."""
        manifest = open_artifact(folder, "latents")
        return cls(folder, manifest, read_content(folder, manifest, LatentsContent))

    @cached_property
    def _files(self) -> CheckedFiles:
        return CheckedFiles(self.folder, self.manifest)

    def documents(self) -> Iterator[StoredDocument]:
        """All documents in source order."""
        failed = {row["row"] for row in self._files.lines(ERRORS, optional={"row": (int,)}) if "row" in row}
        grids = self.grid_of_row()
        index = 0
        # by number: names have five digits, and more where there are more shards
        for name in sorted(self._files.names(DOCUMENTS), key=lambda name: int(Path(name).stem)):
            path = self.folder / name
            for number, row in enumerate(self._files.lines(name, _FIELDS, {"has_heldout_loss": (bool,)}), 1):
                try:
                    document = _document(index, row, failed, grids)
                except (KeyError, TypeError, IndexError) as error:
                    why = f"not a document that tfcli writes ({type(error).__name__}: {error})"
                    fix = "run 'tfcli encode --force' to make it again"
                    raise TfcliError(f"{path}:{number} is damaged", why=why, fix=fix, code=ExitCode.ARTIFACT) from error
                yield document
                index += 1
        if index != self.content.num_documents:
            why = f"{index:,} documents, the manifest says {self.content.num_documents:,}"
            fix = "run 'tfcli encode --force' to make it again"
            raise TfcliError(f"{self.folder / DOCUMENTS} is damaged", why=why, fix=fix, code=ExitCode.ARTIFACT)

    def grid_of_row(self) -> IntArray:
        """The grid of each picture."""
        mirrored = sum(grid.mirror is not None for grid in self.content.grids)
        if len(self.content.grids) - mirrored == 1:
            return np.zeros(self.content.num_images, np.uint8)
        grids = self._files.flat(f"{ARRAYS}/{GRIDS}")
        if len(grids) != self.content.num_images or (grids.size and grids.max() >= len(self.content.grids)):
            raise TfcliError(
                f"{self.folder / ARRAYS / GRIDS} is damaged",
                why="it does not name a grid for each picture",
                fix="run 'tfcli encode --force'",
                code=ExitCode.ARTIFACT,
            )
        return grids

    def rows(self, grid: int = 0) -> RowReader:
        """Random access to the rows of a grid, each (2, channels, height, width). Raises TfcliError (ARTIFACT) where the array
        is not as the manifest says, or a shard of it when its rows are first read."""
        if grid in self._readers:
            return self._readers[grid]
        size = self.content.grids[grid]
        reader = RowReader(self.folder / ARRAYS / size.name, self._files.sums(f"{ARRAYS}/{size.name}"))
        wanted = (size.rows, 2, self.content.latent_channels, size.height, size.width)
        if (reader.num_rows, *reader.row_shape) != wanted:
            raise TfcliError(
                f"{reader.path} is damaged",
                why=f"its shape is {(reader.num_rows, *reader.row_shape)}, that of the latents is {wanted}",
                fix="run 'tfcli encode --force'",
                code=ExitCode.ARTIFACT,
            )
        self._readers[grid] = reader
        return reader

    def autoencoder_folder(self) -> Path:
        """The folder of the autoencoder that made them."""
        return open_input(self.folder, self.manifest, "autoencoder")[0]

    def autoencoder(self) -> Autoencoder:
        """The autoencoder that made them."""
        return Autoencoder.open(self.autoencoder_folder())


def _text(part: dict[str, Any]) -> StoredText:
    if not isinstance(part["text"], str):
        raise TypeError("the text is not a string")
    return StoredText(part["text"])


def _image(part: dict[str, Any], failed: set[int], grids: IntArray) -> StoredImage:
    row = part["image"]
    if type(row) is not int or not 0 <= row < len(grids):
        raise IndexError(f"row {row} of {len(grids)}")
    if not isinstance(part["name"], str):
        raise TypeError("the name of a picture is not a string")
    return StoredImage(row, int(grids[row]), part["name"], row not in failed)


def _document(index: int, row: dict[str, Any], failed: set[int], grids: IntArray) -> StoredDocument:
    segments = tuple(_text(part) if "text" in part else _image(part, failed, grids) for part in row["segments"])
    values = {name: row[name] for name in ("key", "group", "fixed_order", "heldout", "source")}
    return StoredDocument(
        index=index,
        segments=segments,
        labels=row["facts"],
        has_heldout_loss=row.get("has_heldout_loss", True),
        **values,
    )
