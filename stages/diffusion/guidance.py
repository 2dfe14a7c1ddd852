"""Classifier-free guidance (Ho and Salimans 2022) in the convention where a scale of 1 means none."""

from __future__ import annotations

from torch import Tensor


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """x = x_u + w (x_c - x_u). The same for predictions of x_0 and of the noise, which for one x_t are lines in each other."""
    return unconditional + scale * (conditional - unconditional)
