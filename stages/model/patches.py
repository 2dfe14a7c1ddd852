"""Latents <-> patch vectors: the modality layers for images, linear or U-Net, and the embedding of the time t.

Legend: I images, C channels, h x w latent pixels, P patches of side k in raster order, D model width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.core.errors import ExitCode, TfcliError
from stages.model.config import Codec, LinearCodec, UNetCodec

_POSITION_FEATURES = 64


def to_patches(latents_IChw: Tensor, side: int) -> Tensor:
    """(I, C, h, w) -> (I, P, C k k), patches left to right, then top to bottom (paper, section 3)."""
    return F.pixel_unshuffle(latents_IChw, side).flatten(2).transpose(1, 2)


def from_patches(patches_IPv: Tensor, side: int, height: int, width: int) -> Tensor:
    """The inverse of `to_patches`; height and width of the latent grid."""
    grid = patches_IPv.transpose(1, 2).unflatten(2, (height // side, width // side))
    return F.pixel_shuffle(grid, side)


class TimeEmbedding(nn.Module):
    """256 sinusoids -> D -> SiLU -> out, one vector per image (D, D is the reading that fits the paper's parameter counts)."""

    def __init__(self, num_features: int, width: int, out: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.first = nn.Linear(num_features, width)
        self.second = nn.Linear(width, out)

    def forward(self, t_I: Tensor) -> Tensor:
        half = self.num_features // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t_I.device) / half)
        angles = t_I[:, None].float() * frequencies
        vector: Tensor = self.second(F.silu(self.first(torch.cat((angles.cos(), angles.sin()), dim=-1))))
        return vector


def grid_sinusoids(rows: int, columns: int, num_features: int, device: torch.device) -> Tensor:
    """Sine and cosine of each patch's row and column, (rows x columns, num_features): half a turn a patch, a quarter, an
    eighth ..., so that neighbours differ strongly and no two patches of a grid of thousands are alike."""
    frequencies = math.pi / 2.0 ** torch.arange(num_features // 4, device=device)
    row_column = torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))
    angles = (row_column[:, :, None] * frequencies).flatten(1)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


@dataclass(frozen=True)
class Encoded:
    """Images of one grid as vectors, and what `decode` needs in addition to the transformer's outputs.

    vectors_IPD: the input of the transformer. grid: height and width of the latents. memory: a U-Net's skips, finest first,
    and the time embedding; empty for the linear codec.
    """

    vectors_IPD: Tensor
    grid: tuple[int, int]
    memory: tuple[Tensor, ...] = ()


class LinearPatches(nn.Module):
    """The linear codec: patch -> vector, plus the embedding of t (and of row and column), and vector -> patch."""

    OUT = ("outward",)  # the modules that only `decode` uses

    def __init__(self, codec: LinearCodec, values: int, side: int, width: int, time_features: int) -> None:
        super().__init__()
        self.side = side
        self.time_first = codec.time_at == "patch"
        self.time = TimeEmbedding(time_features, width, values if self.time_first else width)
        self.inward = nn.Linear(values, width)
        self.outward = nn.Linear(width, values)
        # `place` is part of a name on disk: patches.place.weight
        self.place = nn.Linear(_POSITION_FEATURES, width, bias=False) if codec.grid_positions else None

    def encode(self, latents_IChw: Tensor, t_I: Tensor) -> Encoded:
        """Noised latents (I, C, h, w) and their t (I,) to vectors (I, P, D)."""
        patches, time_I1 = to_patches(latents_IChw, self.side), self.time(t_I)[:, None]
        vectors = self.inward(patches + time_I1) if self.time_first else self.inward(patches) + time_I1
        height, width = latents_IChw.shape[-2:]
        if self.place is not None:
            sinusoids = grid_sinusoids(height // self.side, width // self.side, _POSITION_FEATURES, vectors.device)
            vectors = vectors + self.place(sinusoids)
        return Encoded(vectors, (height, width))

    def decode(self, vectors_IPD: Tensor, encoded: Encoded) -> Tensor:
        """Transformer outputs (I, P, D) to predictions (I, C, h, w)."""
        return from_patches(self.outward(vectors_IPD), self.side, *encoded.grid)


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution; plus time; norm, SiLU, convolution; added to the input (Dhariwal and Nichol 2021).

    The norm is plain layer norm over an image's channels and pixels; the time embedding is added between the convolutions and
    never scales (paper, footnote 7).
    """

    def __init__(self, channels: int, out: int, time_width: int) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(1, channels)
        self.first = nn.Conv2d(channels, out, 3, padding=1)
        self.time = nn.Linear(time_width, out)
        self.second_norm = nn.GroupNorm(1, out)
        self.residual_out = nn.Conv2d(out, out, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, out, 1) if channels != out else None

    def forward(self, x_IChw: Tensor, time_IW: Tensor) -> Tensor:
        inner = self.first(F.silu(self.first_norm(x_IChw))) + self.time(F.silu(time_IW))[:, :, None, None]
        inner = self.residual_out(F.silu(self.second_norm(inner)))
        out: Tensor = inner + (x_IChw if self.shortcut is None else self.shortcut(x_IChw))
        return out


class UNetPatches(nn.Module):
    """The U-Net codec: residual blocks and halvings down to one pixel a patch, then the transformer, then the mirror image of
    the way in, where the input of each block is concatenated with the output of its counterpart (skip connections)."""

    OUT = ("outward", "up", "grow", "last_norm", "last")

    def __init__(self, codec: UNetCodec, channels: int, side: int, width: int, time_features: int) -> None:
        super().__init__()
        widths = codec.widths(side)
        self.time = TimeEmbedding(time_features, codec.channels, codec.channels)
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        finer = widths[0]
        for level, own in enumerate(widths):
            channels_in = [finer, *[own] * (codec.blocks - 1)]
            self.down.append(nn.ModuleList(ResidualBlock(each, own, codec.channels) for each in channels_in))
            coarser = widths[min(level + 1, len(widths) - 1)]
            channels_in = [coarser + own, *[2 * own] * (codec.blocks - 1), finer + own]
            self.up.append(nn.ModuleList(ResidualBlock(each, own, codec.channels) for each in channels_in))
            if level + 1 < len(widths):
                self.shrink.append(nn.Conv2d(own, own, 3, stride=2, padding=1))
                self.grow.append(nn.Conv2d(coarser, coarser, 3, padding=1))
            finer = own
        self.inward = nn.Linear(widths[-1], width)
        self.outward = nn.Linear(width, widths[-1])
        self.last_norm = nn.GroupNorm(1, widths[0])
        self.last = nn.Conv2d(widths[0], channels, 3, padding=1)

    def encode(self, latents_IChw: Tensor, t_I: Tensor) -> Encoded:
        """Noised latents (I, C, h, w) and their t (I,) to vectors (I, P, D), with the skips in `memory`."""
        time_IW = self.time(t_I)
        x = self.first(latents_IChw)
        skips = []
        for level, blocks in enumerate(self.down):
            skips.append(x)
            for block in cast(nn.ModuleList, blocks):
                x = block(x, time_IW)
                skips.append(x)
            if level < len(self.shrink):
                x = self.shrink[level](x)
        vectors = self.inward(x.flatten(2).transpose(1, 2))
        height, width = latents_IChw.shape[-2:]
        return Encoded(vectors, (height, width), (*skips, time_IW))

    def decode(self, vectors_IPD: Tensor, encoded: Encoded) -> Tensor:
        """Transformer outputs (I, P, D) and the skips to predictions (I, C, h, w)."""
        *skips, time_IW = encoded.memory
        side = 2 ** len(self.shrink)
        height, width = encoded.grid
        x = self.outward(vectors_IPD).transpose(1, 2).unflatten(2, (height // side, width // side))
        for level in reversed(range(len(self.up))):
            if level < len(self.grow):
                x = self.grow[level](F.interpolate(x, scale_factor=2, mode="nearest"))
            for block in cast(nn.ModuleList, self.up[level]):
                x = block(torch.cat((x, skips.pop()), dim=1), time_IW)
        out: Tensor = self.last(F.silu(self.last_norm(x)))
        return out


def build_patches(
    codec: Codec, channels: int, side: int, width: int, time_features: int
) -> LinearPatches | UNetPatches:
    """The codec that a recipe names. Raises TfcliError (USAGE) where it does not fit the patch side."""
    if codec.kind == "linear":
        return LinearPatches(codec, channels * side * side, side, width, time_features)
    if side not in (2, 4, 8):
        raise TfcliError(
            f'model.codec.kind = "unet" does not fit pack.patch_side = {side}',
            why="a U-Net halves the latents log2(side) times",
            fix="pack with a patch side of 2, 4 or 8, or take the linear codec",
            code=ExitCode.USAGE,
        )
    return UNetPatches(codec, channels, side, width, time_features)
