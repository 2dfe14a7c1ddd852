"""Fine-tuning: a finished checkpoint as the start of a training on new Sequences, where tokenizer, autoencoder and patches agree.

The weights are those that sampling uses (the running average where there is one), because they are the ones that were evaluated.
The optimizer starts without state. Latents are normalised with the statistics of the checkpoint's training, not with those of
the new data, so that a latent means the same to the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from stages.artifacts.checkpoint import Checkpoint
from stages.artifacts.latents import Latents
from stages.artifacts.manifest import Manifest
from stages.artifacts.sequences import Sequences, SequencesContent
from stages.artifacts.tokens import TOKENIZER, SpecialTokens, Tokens
from stages.core.errors import ExitCode, TfcliError
from stages.diffusion.config import DiffusionConfig
from stages.model.config import ModelConfig


@dataclass(frozen=True)
class Start:
    """A checkpoint that fits the new training."""

    checkpoint: Checkpoint

    @classmethod
    def open(cls, path: str, model: ModelConfig, diffusion: DiffusionConfig, sequences: Sequences) -> Start:
        """Open and check a checkpoint. Raises TfcliError (ARTIFACT) with the first difference to this training, and its fix.

        Args:
            path: the checkpoint's folder; "~" is the home folder.
            model: the recipe section.
            diffusion: the recipe section.
            sequences: that this training reads.
        """
        checkpoint = Checkpoint.open(Path(os.path.expanduser(path)))
        for why, fix in _differences(checkpoint, model, diffusion, sequences):
            what = f"train.start_from: {checkpoint.folder} does not fit this training"
            raise TfcliError(what, why=why, fix=fix, code=ExitCode.ARTIFACT)
        return cls(checkpoint)

    def weights(self) -> dict[str, Tensor]:
        return self.checkpoint.weights()

    def rescaled(self, content: SequencesContent) -> SequencesContent:
        """`content` with the latent statistics of the checkpoint's training."""
        own = self.checkpoint.content
        return content.model_copy(update={"channel_mean": own.channel_mean, "channel_std": own.channel_std})

    def provenance(self) -> dict[str, Any]:
        """What the manifest records about the checkpoint, for people; the checkpoint itself is one of the inputs."""
        content = self.checkpoint.content
        return {
            "digest": self.checkpoint.manifest.digest,
            "steps": content.steps,
            "weights": "running average" if content.has_ema else "trained",
            "latent_scale": "that of this checkpoint",
        }


def _differences(
    checkpoint: Checkpoint, model: ModelConfig, diffusion: DiffusionConfig, sequences: Sequences
) -> Iterator[tuple[str, str]]:
    """(why, fix) of each difference: first what inputs and outputs mean, then what a setting can change."""
    old, new, content = Sequences.open(checkpoint.sequences_folder()), sequences, checkpoint.content
    tokens, latents = Tokens.open(old.tokens_folder()), Latents.open(old.latents_folder())
    own_tokens, own_latents = Tokens.open(new.tokens_folder()), Latents.open(new.latents_folder())
    there, here = (_sha256(each.manifest, TOKENIZER) for each in (tokens, own_tokens))
    special_tokens = [each.content.model_dump(include=set(SpecialTokens.model_fields)) for each in (tokens, own_tokens)]
    if there != here or special_tokens[0] != special_tokens[1]:
        path = _shown(tokens.folder)
        fix = f'set tokenize.tokenizer = {{ kind = "pretrained", path = "{path}" }}'
        yield f"its ids are of the tokenizer {there[:12]}, these sequences have {here[:12]}", fix
    elif old.content.size_ids() != new.content.size_ids():
        yield (
            f"its ids of sizes are {_sizes(old)}, those of these sequences {_sizes(new)}",
            f"pack pictures of the same sizes, with pack.size_tokens = {str(old.content.size_tokens).lower()}",
        )
    one, other = latents.content.autoencoder, own_latents.content.autoencoder
    if (one.class_name, one.weights_sha256) != (other.class_name, other.weights_sha256):
        path = _shown(latents.folder / latents.manifest.inputs["autoencoder"].path)
        why = f"its latents are of the autoencoder {one.weights_sha256[:12]}, these are of {other.weights_sha256[:12]}"
        yield why, f'set vae = {{ kind = "pretrained", path = "{path}" }}'
    if content.latent_channels != new.content.latent_channels:
        why = f"its latents have {content.latent_channels} channels, these {new.content.latent_channels}"
        yield why, "encode with its autoencoder"
    if content.patch_side != new.content.patch_side:
        yield (
            f"its patches have sides of {content.patch_side}, these of {new.content.patch_side}",
            f"set pack.patch_side = {content.patch_side}",
        )
    # read as sections, so that a key which an older tfcli did not write has its default
    yield from _settings("model", ModelConfig.model_validate(content.model), model)
    loss = DiffusionConfig.model_validate(content.diffusion)
    for name in ("schedule", "target"):  # they define the model's output; the rest may change
        yield from _settings(f"diffusion.{name}", getattr(loss, name), getattr(diffusion, name))


def _settings(name: str, there: BaseModel, here: BaseModel) -> Iterator[tuple[str, str]]:
    """All keys of a section that differ, as one (why, fix)."""
    old, new = there.model_dump(), here.model_dump()
    keys = [key for key in old if old[key] != new.get(key)]
    if keys or type(there) is not type(here):
        shown = ", ".join(f"{name}.{key} = {json.dumps(old[key])}" for key in keys)
        yield f"it was trained with {shown}", "set them as they were there"


def _sizes(sequences: Sequences) -> str:
    return ", ".join(f"{w}x{h}" for h, w in sequences.content.size_ids()) or "none"


def _sha256(manifest: Manifest, name: str) -> str:
    return next(entry.sha256 for entry in manifest.files if entry.path == name)


def _shown(folder: Path) -> str:
    return Path(os.path.relpath(folder)).as_posix()
