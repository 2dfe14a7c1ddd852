"""Held-out documents as prompts: their images are normalised as those of training are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from stages.artifacts.latents import StoredDocument, StoredImage, StoredText
from stages.coders.scale import LatentScale
from stages.generation.heldout import pieces_of
from stages.generation.prompts import ImagePiece, TextPiece

MEAN, STD = [1.0, -2.0], [0.5, 4.0]
STORED = np.arange(3 * 2 * 2 * 4 * 4, dtype=np.float32).reshape(3, 2, 2, 4, 4)  # row, posterior, channel, height, width


def test_images_are_the_normalised_mean_of_their_posterior() -> None:
    loaded: Any = SimpleNamespace(
        latents=SimpleNamespace(rows=lambda grid: SimpleNamespace(read=lambda rows: STORED[rows] + 1000 * grid)),
        scale=LatentScale(MEAN, STD),
        device=torch.device("cpu"),
    )
    segments = (StoredText("a"), StoredImage(2, 1, "x", True), StoredText("b"), StoredImage(0, 0, "y", True))
    found = pieces_of(StoredDocument(0, "k", None, True, True, False, None, segments, "pictures"), loaded)
    assert [type(piece) for piece in found] == [TextPiece, ImagePiece, TextPiece, ImagePiece]
    for piece, (row, grid) in zip(found[1::2], ((2, 1), (0, 0)), strict=True):
        assert isinstance(piece, ImagePiece)
        raw = STORED[row, 0] + 1000 * grid
        expected = (raw - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
        np.testing.assert_allclose(piece.latent.numpy(), expected, rtol=1e-5)
