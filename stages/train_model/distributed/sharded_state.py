"""Saved states with sharded tensors: one safetensors file for each rank, written by torch's distributed checkpoints.

The writer and reader are those for the Hugging Face format: no pickle on disk. The header of a file records where each shard
is in its full tensor, so that a save can be read with another number of ranks.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from stages.artifacts.checkpoint import writing_tensors


def write_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write the local shards of `tensors`; all ranks must call this. Scalars are written with shape (1,), which the format can
    read in shards."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with writing_tensors(folder), _quiet(), _unwrapped():
        save({name: _flat(tensor) for name, tensor in tensors.items()}, storage_writer=writer)


def shard_names(folder: Path) -> list[str]:
    """Names of the tensors in the files of `folder`."""
    return list(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)


def read_shards(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill the local shards of `tensors`, whatever the number of ranks that wrote them."""
    reader = HuggingFaceStorageReader(str(folder))
    with _quiet(), _unwrapped():
        # no_dist: each rank reads its own shards, nothing is exchanged
        load({name: _flat(tensor) for name, tensor in tensors.items()}, storage_reader=reader, no_dist=True)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.view(1) if tensor.ndim == 0 else tensor.detach()


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise the error of the rank that failed: torch's CheckpointException is no Exception, so that nothing catches it."""
    try:
        yield
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        raise next((cause for cause in causes if isinstance(cause, OSError)), RuntimeError(str(error))) from error


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
