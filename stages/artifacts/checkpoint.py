"""Checkpoint: a trained model and all that is needed to go on training. Weights in safetensors, scalars in JSON.

weights.safetensors   the trained weights        ema.safetensors   their running average (absent without EMA)
optimizer.safetensors what the optimizers keep    state.json        step, hashes
metrics.jsonl         losses by step (exact)
not in the digest:    timing.jsonl (seconds, speeds and memory by step), report.html, previews/ (PNG), tensorboard/
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from stages.artifacts.checked import CheckedFiles
from stages.artifacts.form import Form
from stages.artifacts.manifest import Manifest, open_artifact, open_input, read_content
from stages.artifacts.schema import Schema
from stages.core.errors import ExitCode, TfcliError
from stages.core.files import disk_errors, replacing
from stages.core.system import refuse_unreadable

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, EMA, OPTIMIZER, STATE = "weights.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"
METRICS, TIMING, REPORT, PREVIEWS = "metrics.jsonl", "timing.jsonl", "report.html", "previews"
CAPTIONS, TRUTH, TENSORBOARD = "captions.json", "truth.png", "tensorboard"
SAVES, BEST = "saves", "best"  # of a training that takes days: never thrown away without --force
PROCESSES = "processes.json"  # in SAVES: how many processes a training on a CPU uses, so that it resumes with the same
SHARD = "shard-#-model-#-of-#.safetensors"  # as torch names the parts of weights that are cut over processes
STATE_FILES = (WEIGHTS, EMA, OPTIMIZER, STATE, METRICS, SHARD)  # of a saved state
SCHEMA = Schema(2)
FORM = Form(
    files=(
        *(WEIGHTS, EMA, OPTIMIZER, STATE, METRICS, TIMING, REPORT),
        *(f"{PREVIEWS}/{name}" for name in (CAPTIONS, TRUTH, "step-#.png")),
        f"{TENSORBOARD}/events.out.tfevents.*",
    ),
    growing=(
        *(f"{SAVES}/step-#{end}/{name}" for end in ("", ".tmp", ".damaged") for name in STATE_FILES),
        *(f"{SAVES}/{BEST}/step-#.{end}" for end in ("safetensors", "json")),
        f"{SAVES}/{PROCESSES}",
    ),
)


class CheckpointContent(BaseModel):
    """latent_limit: the largest absolute value of normalised training latents; samplers stay inside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: dict[str, Any]
    diffusion: dict[str, Any]
    vocab_size: int
    latent_channels: int
    patch_side: int
    latent_height: int
    latent_width: int
    picture_size: int
    channel_mean: list[float]
    channel_std: list[float]
    latent_limit: float
    row_length: int
    has_ema: bool
    parameters: int
    steps: int


@dataclass(frozen=True)
class Checkpoint:
    """A sealed checkpoint."""

    folder: Path
    manifest: Manifest
    content: CheckpointContent

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        manifest = open_artifact(folder, "checkpoint")
        return cls(folder, manifest, read_content(folder, manifest, CheckpointContent))

    def weights(self) -> dict[str, Tensor]:
        """The weights that sampling uses: the running average where there is one."""
        return read_tensors(CheckedFiles(self.folder, self.manifest).path(EMA if self.content.has_ema else WEIGHTS))

    def metrics(self) -> Iterator[dict[str, Any]]:
        yield from metric_rows(CheckedFiles(self.folder, self.manifest).lines(METRICS), self.folder / METRICS)

    def sequences_folder(self) -> Path:
        return open_input(self.folder, self.manifest, "sequences")[0]


def metric_rows(rows: Iterable[Any], where: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log of metrics: a step, and figures that are numbers or null. Raises TfcliError (ARTIFACT) for others."""
    for number, row in enumerate(rows, 1):
        figures = row.values() if isinstance(row, dict) else ()
        sane = all(
            value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in figures
        )
        if not sane or not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise TfcliError(f"{where}:{number} is damaged", why="not a row of metrics", code=ExitCode.ARTIFACT)
        yield row


@contextmanager
def writing_tensors(path: Path) -> Iterator[None]:
    """Around a write by safetensors: its word for a full or read-only disk becomes the error that every other file gives."""
    from safetensors import SafetensorError

    with disk_errors(path):
        try:
            yield
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file: whole on disk or absent, readable as the umask says."""
    from safetensors.torch import save_file

    with writing_tensors(path), replacing(path) as temporary:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file. Raises TfcliError: ARTIFACT if it is not one, ENVIRONMENT if it may not be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        refuse_unreadable(path, error)
        fix = "run 'tfcli train --force', or restore the file"
        raise TfcliError(f"{path} cannot be read", why=str(error), fix=fix, code=ExitCode.ARTIFACT) from error
    return tensors
