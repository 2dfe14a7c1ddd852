"""Latents <-> patch vectors: the modality layers for images, and the time embedding that enters with them.

Legend: I images, C channels, h x w latent pixels, P patches of side k in raster order, D model width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.model.config import LinearCodec

_PLACE_FEATURES = 64


def to_patches(latents_IChw: Tensor, side: int) -> Tensor:
    """(I, C, h, w) -> (I, P, C k k), patches left to right, then top to bottom (paper, section 3)."""
    return F.pixel_unshuffle(latents_IChw, side).flatten(2).transpose(1, 2)


def from_patches(patches_IPv: Tensor, side: int, height: int, width: int) -> Tensor:
    """The inverse of `to_patches`; height and width of the latent grid."""
    grid = patches_IPv.transpose(1, 2).unflatten(2, (height // side, width // side))
    return F.pixel_shuffle(grid, side)


class TimeEmbedding(nn.Module):
    """256 sinusoids -> D -> SiLU -> D, one vector per image (the reading that fits the paper's parameter counts)."""

    def __init__(self, num_features: int, width: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.first = nn.Linear(num_features, width)
        self.second = nn.Linear(width, width)

    def forward(self, t_I: Tensor) -> Tensor:
        half = self.num_features // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t_I.device) / half)
        angles = t_I[:, None].float() * frequencies
        vector: Tensor = self.second(F.silu(self.first(torch.cat((angles.cos(), angles.sin()), dim=-1))))
        return vector


def grid_sinusoids(rows: int, columns: int, num_features: int, device: torch.device) -> Tensor:
    """Sine and cosine of each patch's row and column, (rows x columns, num_features): half a turn a patch, a quarter, an
    eighth ..., so that neighbours differ strongly and no two places of a grid of thousands are alike."""
    frequencies = math.pi / 2.0 ** torch.arange(num_features // 4, device=device)
    places = torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))
    angles = (places[:, :, None] * frequencies).flatten(1)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


class LinearPatches(nn.Module):
    """The linear codec: patch -> vector + time (+ place in the grid), and vector -> patch."""

    def __init__(self, codec: LinearCodec, channels: int, side: int, width: int) -> None:
        super().__init__()
        self.side = side
        self.inward = nn.Linear(channels * side * side, width)
        self.outward = nn.Linear(width, channels * side * side)
        self.place = nn.Linear(_PLACE_FEATURES, width, bias=False) if codec.grid_positions else None

    def encode(self, latents_IChw: Tensor, time_ID: Tensor) -> Tensor:
        """Noised latents and the time embedding to vectors (I, P, D)."""
        vectors: Tensor = self.inward(to_patches(latents_IChw, self.side)) + time_ID[:, None, :]
        if self.place is not None:
            rows, columns = (size // self.side for size in latents_IChw.shape[-2:])
            vectors = vectors + self.place(grid_sinusoids(rows, columns, _PLACE_FEATURES, vectors.device))
        return vectors

    def decode(self, vectors_IPD: Tensor, height: int, width: int) -> Tensor:
        """Transformer outputs to predicted noise (I, C, h, w)."""
        return from_patches(self.outward(vectors_IPD), self.side, height, width)


def build_patches(codec: LinearCodec, channels: int, side: int, width: int) -> LinearPatches:
    """The codec that a recipe names."""
    return LinearPatches(codec, channels, side, width)
