"""Random generators named by (seed, purpose, index...): a draw depends on its name, never on what was drawn before."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, purpose: str, *index: int | str) -> int:
    """A 63-bit seed for the draw named by its arguments."""
    name = "/".join([str(seed), purpose, *(str(part) for part in index)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, purpose: str, *index: int | str) -> np.random.Generator:
    """A numpy generator for the draw named by its arguments."""
    return np.random.default_rng(derive_seed(seed, purpose, *index))


def torch_generator(seed: int, purpose: str, *index: int | str) -> torch.Generator:
    """A CPU torch generator for the draw named by its arguments."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, purpose, *index))
