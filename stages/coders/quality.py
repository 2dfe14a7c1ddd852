"""How well an autoencoder gives pictures back, and from where on that is too little to learn from or to draw with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stages.coders.pixels import Pixels
from stages.core.errors import ExitCode, TfcliError

Floats = np.ndarray[Any, np.dtype[np.float32]]

# Below it shapes are blobs and no text can be read, whatever the transformer learns. Autoencoders that fit their pictures
# reach 25 to 35 dB; an untrained one has 5 to 10.
FLOOR_DB = 20.0


def psnr(first: Iterable[Pixels], second: Iterable[Pixels]) -> float:
    """Mean over pictures of 10 log10(255^2 / mean squared error), in dB."""
    errors = [((one.astype(np.float64) - two) ** 2).mean() for one, two in zip(first, second, strict=True)]
    return float((10 * np.log10(255**2 / np.maximum(errors, 1e-6))).mean())


def refuse_silent(means: Sequence[Floats], pictures: Sequence[Pixels]) -> None:
    """Raise TfcliError (ARTIFACT) where latents say nothing of the pictures: each channel has one value over all pictures and
    places, though the pictures differ. means: (..., C, h, w) of each picture."""
    channels = [np.moveaxis(mean, -3, 0).reshape(mean.shape[-3], -1) for mean in means]
    together = np.concatenate(channels, axis=1).astype(np.float64)
    spread, size = together.std(1), np.abs(together).max(1)
    blank = (
        max(float(picture.std()) for picture in pictures) < 1
        and len({picture.mean().round() for picture in pictures}) == 1
    )
    if blank or (spread > 1e-5 * np.maximum(size, 1e-3)).any():
        return
    values = ", ".join(f"{value:.4g}" for value in together.mean(1)[:8])
    raise TfcliError(
        "the latents say nothing about the pictures",
        why=f"over {len(pictures)} different pictures each channel has one value ({values}), at every place",
        fix="the autoencoder's weights are empty or damaged: give another vae.path, or train it again with 'tfcli vae --force'",
        code=ExitCode.ARTIFACT,
    )


def too_low(quality: float, of_what: str, floor: float = FLOOR_DB) -> str:
    """What to tell of a PSNR below the floor: the value and what it means; empty at the floor and above. The one judgement of
    an autoencoder's quality: vae, encode, train and sample all ask here. of_what: which pictures."""
    if quality >= floor:
        return ""
    return (
        f"the autoencoder gives {of_what} back with {quality:.1f} dB PSNR, below {floor:g} dB: what it loses, the model can "
        "neither see nor draw"
    )


ADVICE = (
    'train the autoencoder longer (vae.steps) or on pictures like these, or take another one (vae.kind = "pretrained")'
)
