"""How well an autoencoder gives pictures back, and from where on that is too little to learn from or to draw with."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stages.coders.pixels import Pixels

# Below it shapes are blobs and no text can be read, whatever the transformer learns. Autoencoders that fit their pictures
# reach 25 to 35 dB; an untrained one has 5 to 10.
FLOOR_DB = 20.0


def psnr(first: Iterable[Pixels], second: Iterable[Pixels]) -> float:
    """Mean over pictures of 10 log10(255^2 / mean squared error), in dB."""
    errors = [((one.astype(np.float64) - two) ** 2).mean() for one, two in zip(first, second, strict=True)]
    return float((10 * np.log10(255**2 / np.maximum(errors, 1e-6))).mean())


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
