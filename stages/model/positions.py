"""Rotary positions (Su et al. 2021). Positions count from 0 at the start of each document; patches take raster order."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_table(positions_N: Tensor, head_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin, each (N, 1, head_dim / 2), float32, for every element's position."""
    exponents = torch.arange(0, head_dim, 2, device=positions_N.device, dtype=torch.float32) / head_dim
    angles = positions_N[:, None].float() * base**-exponents
    return angles.cos()[:, None, :], angles.sin()[:, None, :]


def rotate(x_NHd: Tensor, cos_N1d: Tensor, sin_N1d: Tensor) -> Tensor:
    """Rotate the pairs (x_i, x_{i + d/2}) of queries or keys (N, heads, head_dim) by their position's angles."""
    first, second = x_NHd.chunk(2, dim=-1)
    turned = torch.cat((first * cos_N1d - second * sin_N1d, second * cos_N1d + first * sin_N1d), dim=-1)
    return turned.to(x_NHd.dtype)
