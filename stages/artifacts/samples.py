"""Samples: what a checkpoint wrote and drew.

records.jsonl   one document a line: mode, prompt, output, how it ended; pictures by file name
images/*.png    every picture, with its record in the PNG's text chunks
grid.png        the drawn pictures on one sheet       index.html  the same for reading, no server needed
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from stages.artifacts.manifest import Manifest, open_artifact
from stages.core.files import read_jsonl

RECORDS, GRID, PAGE = "records.jsonl", "grid.png", "index.html"


class Part(BaseModel):
    """A piece of a record: either text or the file of a picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str | None = None
    image: str | None = None


class Record(BaseModel):
    """One sampled document."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    index: int
    mode: str
    key: str | None
    seed: int
    prompt: list[Part]
    output: list[Part]
    ended: str


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
