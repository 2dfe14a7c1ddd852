"""Latents: every picture of a source as raw latents, and the documents that they belong to.

arrays/<grid>/            zarr, a row a picture: [0] posterior mean, [1] posterior deviation; NaN where it failed
documents/<shard>.jsonl   the documents in source order, images replaced by rows
errors.jsonl              what was left out: key, path, reason code, message, and the row that is NaN for it
check.png                 pictures before (above) and after (below) the stored latents
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from stages.artifacts.arrays import RowReader
from stages.artifacts.manifest import Manifest, open_artifact, open_input, read_content
from stages.core.errors import ExitCode, TfcliError
from stages.core.files import read_jsonl

ARRAYS, DOCUMENTS, ERRORS, SHEET = "arrays", "documents", "errors.jsonl", "check.png"


class Grid(BaseModel):
    """Latents of one size: height and width in latent pixels, number of rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    height: int
    width: int
    rows: int


class LatentsContent(BaseModel):
    """channel_mean, channel_std: of draws from the posterior, per channel, over all good rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")
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
    facts: Any
    segments: tuple[StoredText | StoredImage, ...]


@dataclass(frozen=True)
class Latents:
    """Sealed latents."""

    folder: Path
    manifest: Manifest
    content: LatentsContent

    @classmethod
    def open(cls, folder: Path) -> Latents:
        manifest = open_artifact(folder, "latents")
        return cls(folder, manifest, read_content(folder, manifest, LatentsContent))

    def documents(self) -> Iterator[StoredDocument]:
        """All documents in source order."""
        failed = {row["row"] for row in read_jsonl(self.folder / ERRORS) if "row" in row}
        index = 0
        for path in sorted((self.folder / DOCUMENTS).glob("*.jsonl")):
            for number, row in enumerate(read_jsonl(path), 1):
                try:
                    document = _document(index, row, failed)
                except (KeyError, TypeError) as error:
                    why = f"not a document that tfcli writes ({type(error).__name__}: {error})"
                    fix = "run 'tfcli encode --force' to make it again"
                    raise TfcliError(f"{path}:{number} is damaged", why=why, fix=fix, code=ExitCode.ARTIFACT) from error
                yield document
                index += 1

    def rows(self, grid: int = 0) -> RowReader:
        """Random access to the rows of a grid, each (2, channels, height, width)."""
        return RowReader(self.folder / ARRAYS / self.content.grids[grid].name)

    def autoencoder_folder(self) -> Path:
        return open_input(self.folder, self.manifest, "autoencoder")[0]


def _text(part: dict[str, Any]) -> StoredText:
    if not isinstance(part["text"], str):
        raise TypeError("the text is not a string")
    return StoredText(part["text"])


def _document(index: int, row: dict[str, Any], failed: set[int]) -> StoredDocument:
    segments = tuple(
        _text(part)
        if "text" in part
        else StoredImage(part["image"], part["grid"], part["name"], part["image"] not in failed)
        for part in row["segments"]
    )
    return StoredDocument(index, row["key"], row["group"], row["fixed_order"], row["heldout"], row["facts"], segments)
