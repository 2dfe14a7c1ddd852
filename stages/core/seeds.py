"""Random generators named by (seed, purpose, index...): a draw depends on its name, never on what was drawn before."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

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


def hashed_uniform(
    keys: np.ndarray[Any, np.dtype[np.int64]], seed: int, purpose: str, *index: int | str
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A draw from [0, 1) for each key: that of a key depends on its name alone, not on the other keys (SplitMix64)."""
    mixed = keys.astype(np.uint64) ^ np.uint64(derive_seed(seed, purpose, *index))
    mixed += np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)) / 2.0**53


def torch_generator(seed: int, purpose: str, *index: int | str) -> torch.Generator:
    """A CPU torch generator for the draw named by its arguments."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, purpose, *index))
