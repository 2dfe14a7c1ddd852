"""Autoencoder: a diffusers autoencoder as the pipeline uses it.

model/                config.json and diffusion_pytorch_model.safetensors, as diffusers writes them
reconstruction.png    held-out pictures, before (above) and after (below)
metrics.jsonl         losses and PSNR by step, where it was trained here
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from stages.artifacts.checked import CheckedFiles
from stages.artifacts.form import Form
from stages.artifacts.manifest import MANIFEST, Manifest, open_artifact, read_content
from stages.artifacts.schema import Schema

MODEL, SHEET, METRICS, GROWING = "model", "reconstruction.png", "metrics.jsonl", "state"
WEIGHTS = "diffusion_pytorch_model"  # diffusers cuts large ones into several files, with an index
SCHEMA = Schema(2)
FORM = Form(
    files=(f"{MODEL}/config.json", f"{MODEL}/{WEIGHTS}*.safetensors", f"{MODEL}/{WEIGHTS}*.index.json", SHEET, METRICS),
    growing=(f"{GROWING}/state.json", f"{GROWING}/step-#.safetensors"),
)


class Identity(BaseModel):
    """Which autoencoder it is. scaling_factor and shift_factor: as its config has them, for the record: latents are stored
    raw and normalised by their own statistics. probe: `Vae.probe` in float32."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    class_name: str
    weights_sha256: str
    scaling_factor: float | None
    shift_factor: float | None
    probe: list[float]


class AutoencoderContent(BaseModel):
    """Facts that later stages read instead of asking the recipe again."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    identity: Identity
    latent_channels: int
    downsampling: int
    picture_size: int
    fit: Literal["crop", "pad", "buckets"]


@dataclass(frozen=True)
class Autoencoder:
    """A sealed autoencoder."""

    folder: Path
    manifest: Manifest
    content: AutoencoderContent

    @classmethod
    def open(cls, folder: Path) -> Autoencoder:
        manifest = open_artifact(folder, "autoencoder")
        return cls(folder, manifest, read_content(folder, manifest, AutoencoderContent))

    @property
    def model_folder(self) -> Path:
        """Where diffusers finds it, after a look at the sums of its files."""
        return CheckedFiles(self.folder, self.manifest).below(MODEL)


def weights_at(path: str) -> str:
    """Where the weights of a named autoencoder are: inside, if it is an artifact; else the path (or hub id) itself.

    Raises TfcliError (ARTIFACT) for an artifact of another kind or a damaged one.
    """
    folder = Path(os.path.expanduser(path))
    if not (folder / MANIFEST).is_file():
        return path
    return str(Autoencoder.open(folder).model_folder)
