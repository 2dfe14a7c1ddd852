"""Classifier-free guidance (Ho and Salimans 2022) in the convention where a scale of 1 means none."""

from __future__ import annotations

from torch import Tensor


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """eps = eps_u + w (eps_c - eps_u)."""
    return unconditional + scale * (conditional - unconditional)
