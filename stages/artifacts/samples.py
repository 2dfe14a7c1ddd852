"""Samples: what a checkpoint wrote and drew.

records.jsonl   one document a line: mode, prompt, output, how it ended; pictures by file name
images/*.png    every picture; what it takes to draw it again also in the PNG's text chunks, the chunk "record" as here
images/*.gif    its denoising, where it was wanted
grid.png        the drawn pictures on one sheet       index.html  the same for reading, no server needed
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from stages.artifacts.checked import CheckedFiles
from stages.artifacts.form import Form
from stages.artifacts.manifest import Manifest, open_artifact
from stages.artifacts.schema import Schema
from stages.core.config import first_problem
from stages.core.errors import ExitCode, TfcliError

RECORDS, GRID, PAGE, IMAGES = "records.jsonl", "grid.png", "index.html", "images"
MODES = ("prompts", "heldout_prompts", "captions", "continued", "free")
SCHEMA = Schema(3)
FORM = Form(
    files=(RECORDS, GRID, PAGE, *(f"{IMAGES}/{mode}-#*.{end}" for mode in MODES for end in ("png", "gif"))),
)


class Part(BaseModel):
    """A piece of a record: either text or the file of a picture, with its height and width, and where it was wanted a GIF of
    its denoising. original: of a given picture, the file of it as it was cropped, before the autoencoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    text: str | None = None
    image: str | None = None
    size: tuple[int, int] | None = None
    animation: str | None = None
    original: str | None = None

    @model_serializer(mode="wrap")
    def _without_no_original(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Records of parts without an original are those of older versions to the byte."""
        row: dict[str, Any] = serialise(self)
        if self.original is None:
            row.pop("original", None)
        return row


class Given(BaseModel):
    """A picture file that a prompt named: its name without folders, and what it was."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    sha256: str


class Asked(BaseModel):
    """The options of a prompt. draw: "model" where it could choose. size: WIDTHxHEIGHT in pixels, None: that of the settings.
    pictures: of the prompt, in order. begin, mask, strength: what its first drawing starts from."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    draw: bool | Literal["model"]
    size: str | None = None
    negative: str = ""
    pictures: list[Given] = []
    begin: Given | None = None
    mask: Given | None = None
    strength: float | None = None


class Record(BaseModel):
    """One sampled document. index: of the prompt in its mode; take: which of several samples of that prompt; number: names its
    random draws, with the mode and the seed. These, `asked`, settings (stop strings among them), prompt and checkpoint (its
    digest) are what it takes to make it again; PNGs hold them too.

    begin: the picture that its first drawing began from, as it was cropped, with `strength` of the noise; mask: white where it
    could change, elsewhere its pixels are kept; negative: text that guidance led away from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    index: int
    take: int
    number: int
    mode: str
    key: str | None
    seed: int
    checkpoint: str
    settings: dict[str, Any]
    prompt: list[Part]
    asked: Asked
    output: list[Part]
    ended: str
    begin: Part | None = None
    mask: Part | None = None
    strength: float | None = None
    negative: str = ""

    def files(self) -> set[str]:
        """The files of its pictures."""
        parts = [*self.prompt, *self.output, *(part for part in (self.begin, self.mask) if part is not None)]
        return {name for part in parts for name in (part.image, part.animation, part.original) if name is not None}


@dataclass(frozen=True)
class Samples:
    """A sealed set of samples."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Samples:
        return cls(folder, open_artifact(folder, "samples"))

    def records(self) -> Iterator[Record]:
        for row in CheckedFiles(self.folder, self.manifest).lines(RECORDS):
            try:
                yield Record.model_validate(row)
            except ValidationError as error:
                fix = "run 'tfcli sample --force' to make them again"
                what = f"{self.folder / RECORDS} is damaged"
                raise TfcliError(what, why=first_problem(error), fix=fix, code=ExitCode.ARTIFACT) from error
