"""Rotary positions (Su et al. 2021). Positions count from 0 at the start of each document; patches take raster order."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(positions_N: Tensor, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin, each (N, head_dim / 2), float32, for every element's position."""
    exponents = torch.arange(0, head_dim, 2, device=positions_N.device, dtype=torch.float32) / head_dim
    angles = positions_N[:, None].float() * base**-exponents
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos_Nd: Tensor, sin_Nd: Tensor) -> Tensor:
    """Rotate the pairs (x_i, x_{i + d/2}) of queries and keys (N, ..., head_dim) by their position's angles.

    The angles are exact in float32; cos and sin are rounded to the type of x, which halves the time in bf16.
    """
    between = (1,) * (x.ndim - 2)
    cos = cos_Nd.view(len(cos_Nd), *between, -1).to(x.dtype)
    sin = sin_Nd.view(len(sin_Nd), *between, -1).to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
