"""A checkpoint loaded for generation: the transformer with its text coder, latent scale and autoencoder.

The tokenizer and the autoencoder are found through the checkpoint's lineage, and their digests are checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.checkpoint import Checkpoint
from stages.artifacts.latents import Latents
from stages.artifacts.sequences import Sequences
from stages.artifacts.tokens import Tokens
from stages.coders.scale import LatentScale
from stages.coders.text import TextCoder
from stages.coders.vae import Vae, load_vae
from stages.core.device import resolve_device
from stages.core.errors import ExitCode, TfcliError
from stages.diffusion.config import DiffusionConfig
from stages.diffusion.process import Diffusion
from stages.generation.config import Precision
from stages.generation.prompts import Size
from stages.model.config import ModelConfig
from stages.model.cpu.inference import optimize_for_inference
from stages.model.transformer import ModelDims, Transfusion


@dataclass(frozen=True)
class LoadedModel:
    """Everything that turns prompts into text and pictures."""

    checkpoint: Checkpoint
    sequences: Sequences
    tokens: Tokens
    latents: Latents
    model: Transfusion
    diffusion: Diffusion
    scale: LatentScale
    text: TextCoder
    vae: Vae
    device: torch.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the images that the model generates by default."""
        content = self.checkpoint.content
        return content.latent_channels, content.latent_height, content.latent_width

    @property
    def size_ids(self) -> dict[Size, int]:
        """The id of the token for each size (h, w) of latents; empty where the model was trained without size tokens."""
        return self.sequences.content.size_ids()

    def latent_size(self, height: int, width: int) -> Size:
        """The latent size (h, w) for a size in pixels. Raises TfcliError (USAGE) where the model cannot generate it."""
        cell = self.latents.content.downsampling
        step = cell * self.checkpoint.content.patch_side
        size = height // cell, width // cell
        what = f"size {width}x{height}"
        if height % step or width % step:
            near = "x".join(str(max(1, round(side / step)) * step) for side in (width, height))
            raise TfcliError(
                f"{what}: sides must be multiples of {step}",
                why=f"the autoencoder shrinks them {cell} times, and a patch has {step // cell} pixels a side of that",
                fix=f"such as {near}",
                code=ExitCode.USAGE,
            )
        if self.size_ids and size not in self.size_ids:
            known = ", ".join(f"{w * cell}x{h * cell}" for h, w in self.size_ids)
            raise TfcliError(what, why="the model has no token for it", fix=f"one of {known}", code=ExitCode.USAGE)
        return size

    def encode_picture(self, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
        """uint8 (height, width, 3) -> a clean normalised latent (C, h, w): the posterior mean."""
        mean, _ = self.vae.encode(pixels[None])
        return self.scale.normalise(torch.from_numpy(mean).to(self.device))[0]

    def decode_pictures(self, latents_IChw: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Normalised latents (I, C, h, w) -> uint8 (I, height, width, 3)."""
        return self.vae.decode(self.scale.restore(latents_IChw).cpu().numpy())


def load_model(folder: Path, device_name: str = "auto", precision: Precision = "fp32") -> LoadedModel:
    """Open a checkpoint and all artifacts that it was built on; the model is optimized for inference, in `precision`.

    Raises TfcliError (ARTIFACT) where one of them is missing or has changed.
    """
    device = resolve_device(device_name)
    checkpoint = Checkpoint.open(folder)
    content = checkpoint.content
    sequences_folder = checkpoint.sequences_folder()
    model = Transfusion(
        ModelConfig.model_validate(content.model),
        ModelDims(content.vocab_size, content.latent_channels, content.patch_side),
    )
    try:
        model.load_state_dict(checkpoint.weights(), strict=True)
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()
        raise TfcliError(f"{folder}: weights do not fit the model", why=why, code=ExitCode.ARTIFACT) from error
    steps = DiffusionConfig.model_validate(content.diffusion).schedule.steps
    optimize_for_inference(model.to(device), torch.bfloat16 if precision == "bf16" else torch.float32, steps)
    return assemble(checkpoint, sequences_folder, model, device)


def assemble(checkpoint: Checkpoint, sequences_folder: Path, model: Transfusion, device: torch.device) -> LoadedModel:
    """The model with all that its checkpoint was built on. The checkpoint may be one whose training still runs."""
    content = checkpoint.content
    sequences = Sequences.open(sequences_folder)
    tokens = Tokens.open(sequences.tokens_folder())
    latents = Latents.open(sequences.latents_folder())
    diffusion = DiffusionConfig.model_validate(content.diffusion)
    return LoadedModel(
        checkpoint=checkpoint,
        sequences=sequences,
        tokens=tokens,
        latents=latents,
        model=model,
        diffusion=Diffusion(diffusion.schedule, diffusion.target, diffusion.times),
        scale=LatentScale(content.channel_mean, content.channel_std, device),
        text=tokens.text_coder(),
        vae=load_vae(latents.autoencoder().model_folder, device=str(device)),
        device=device,
    )
