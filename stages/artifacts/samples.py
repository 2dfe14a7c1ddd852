"""Samples: what a checkpoint wrote and drew.

records.jsonl   one document a line: mode, prompt, output, how it ended; pictures by file name
images/*.png    every picture; seed, settings, prompt and checkpoint also in the PNG's text chunks
images/*.gif    its denoising, where it was wanted
grid.png        the drawn pictures on one sheet       index.html  the same for reading, no server needed
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from stages.artifacts.manifest import Manifest, open_artifact
from stages.core.files import read_jsonl

RECORDS, GRID, PAGE = "records.jsonl", "grid.png", "index.html"


class Part(BaseModel):
    """A piece of a record: either text or the file of a picture, with its height and width, and where it was wanted a GIF of
    its denoising."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str | None = None
    image: str | None = None
    size: tuple[int, int] | None = None
    animation: str | None = None


class Record(BaseModel):
    """One sampled document. index: of the prompt in its mode; take: which of several samples of that prompt. seed, settings
    and checkpoint (its digest): what it takes to make it again. begin: the picture that its first drawing began from, as it
    was cropped, with `strength` of the noise; mask: white where it could change, elsewhere its pixels are kept; negative:
    text that guidance led away from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    index: int
    take: int
    mode: str
    key: str | None
    seed: int
    checkpoint: str
    settings: dict[str, Any]
    prompt: list[Part]
    output: list[Part]
    ended: str
    begin: Part | None = None
    mask: Part | None = None
    strength: float | None = None
    negative: str = ""


@dataclass(frozen=True)
class Samples:
    """A sealed set of samples."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Samples:
        return cls(folder, open_artifact(folder, "samples"))

    def records(self) -> Iterator[Record]:
        for row in read_jsonl(self.folder / RECORDS):
            yield Record.model_validate(row)
