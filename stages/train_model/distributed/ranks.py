"""The ranks of one training: collectives over them, and weights that are replicated or sharded.

Started by torchrun, each rank takes its rows of every global batch. With train.sharding = "none" every rank holds all weights
and gradients are summed over the ranks; otherwise torch's FSDP2 splits every weight along its first dimension into equal
shards, over all ranks ("full") or within groups of train.shard_group ranks, where each group holds a copy ("hybrid").
Only this file, `sharded_state.py` (shards on disk) and `launch.py` (the process group) use torch.distributed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from stages.core.errors import ExitCode, TfcliError
from stages.core.memory import require_memory
from stages.core.seeds import torch_generator
from stages.model.config import ModelConfig
from stages.model.transformer import ModelDims, Transfusion
from stages.train_model.blocks import prepare_blocks
from stages.train_model.config import TrainConfig

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_BUCKET = 2**24  # gradient values in one all-reduce: 64 MB in float32


@dataclass(frozen=True)
class Ranks:
    """Rank `index` of `count`. mesh: the device mesh over which weights are sharded, None where every rank holds all of them."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    index: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which writes the logs, the records of saves and the artifact."""
        return self.index == 0

    def local_rows(self, batch_rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Indices into the global batch of the rows of this rank: consecutive, none where there are fewer rows than ranks."""
        return np.array_split(np.arange(batch_rows), self.count)[self.index]

    def num_micro_batches(self, batch_rows: int, micro_rows: int) -> int:
        """Micro-batches of the rank with the most rows. With sharded weights every rank must run that many, because each
        forward pass gathers weights from all ranks."""
        fullest = -(-batch_rows // self.count)
        return -(-fullest // (micro_rows or fullest))

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks, in float64."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        sums: list[float] = total.tolist()
        return sums

    def all_reduce_sum_(self, values: Tensor) -> Tensor:
        """A tensor on the device summed over the ranks, in place; the host does not wait for the result."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def all_reduce_max(self, value: int) -> int:
        """The largest value over the ranks."""
        if self.count == 1:
            return value
        found = torch.tensor(value)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.all_reduce_max(0)

    def raise_on_main(self, error: TfcliError) -> NoReturn:
        """Raise a failure that all ranks have alike: the main rank reports it, the others exit silently with the same code."""
        raise error if self.main else TfcliError("", code=error.code)

    def build_model(self, model: ModelConfig, dims: ModelDims, train: TrainConfig, seed: int) -> Transfusion:
        """The model on the device with its initial weights, which do not depend on the number of ranks."""
        generator = torch_generator(seed, "weights")
        if self.mesh is None:
            _require_memory(model, dims, train, self.device)
            network = Transfusion(model, dims)
            prepare_blocks(network, train, self.device)
            network.initialise(generator)
            return network.to(self.device)
        with torch.device("meta"):
            network = Transfusion(model, dims)
        prepare_blocks(network, train, self.device)
        apply_fsdp(network, self.mesh)
        network.to_empty(device=self.device)
        network.initialise(generator, copy_into)
        return network

    def all_reduce_gradients(self, network: Transfusion, num_images: float, num_context: float) -> None:
        """Sum the gradients over the ranks; those of sharded weights were summed by the backward pass.

        A weight that no element of the global batch reaches has no gradient, as in a single process, and the optimizer leaves it
        unchanged.

        Args:
            network: the model, after the backward pass.
            num_images: images with a loss in the global batch; without any, the patch decoder has no gradient.
            num_context: images in the global batch that are only read; they reach the patch encoder.
        """
        if self.count == 1 and self.mesh is None:
            return
        used: list[nn.Parameter] = []
        unused: list[nn.Parameter] = []
        for name, weight in network.named_parameters():
            _, _, inner = name.partition("patches.")
            reached = num_images if inner.split(".")[0] in network.patches.OUT else num_images + num_context
            (unused if name.startswith("patches.") and not reached else used).append(weight)
        for weight in unused:
            weight.grad = None
        if self.mesh is None:
            for bucket in _buckets(used):
                gradients = [(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in bucket]
                flat = torch.cat(gradients)
                dist.all_reduce(flat)
                for weight, summed in zip(bucket, flat.split([w.numel() for w in bucket]), strict=True):
                    weight.grad = summed.view_as(weight)


def shard_mesh(train: TrainConfig, device: torch.device, count: int) -> DeviceMesh | None:
    """The device mesh of train.sharding. Raises TfcliError (USAGE) where count is not divisible by train.shard_group."""
    from torch.distributed.device_mesh import init_device_mesh

    if train.sharding == "none":
        return None
    if train.sharding == "full":
        return init_device_mesh(device.type, (count,), mesh_dim_names=("shard",))
    if count % train.shard_group:
        what = f"the number of processes, {count}, is not divisible by train.shard_group = {train.shard_group}"
        raise TfcliError(what, fix='another group, or train.sharding = "full"', code=ExitCode.USAGE)
    shape = (count // train.shard_group, train.shard_group)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))


def copy_into(weight: Tensor, full: Tensor) -> None:
    """Copy a full tensor into a weight, of which this rank may hold only a shard."""
    with torch.no_grad():
        local_shard(weight).copy_(shard_like(weight, full))


def load_full_tensors(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Fill all weights from full tensors with the same names."""
    weights = dict(network.named_parameters())
    assert weights.keys() == tensors.keys(), "the caller has checked that the tensors belong to this model"
    for name, tensor in tensors.items():
        copy_into(weights[name], tensor)


def shard_like(weight: Tensor, full: Tensor) -> Tensor:
    """The shard of a full tensor that this rank would hold if it were sharded like `weight`."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(weight, DTensor):
        return full
    # src_data_rank None: every rank has the full tensor, nothing is sent
    sharded = distribute_tensor(full.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)
    return local_shard(sharded)


def local_shard(tensor: Tensor) -> Tensor:
    """The shard of a tensor that this rank holds; the tensor itself where it is not sharded."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor on every rank, gathered where it is sharded; all ranks must call this."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def clip_gradients(weights: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Clip the gradients by their global norm, over the shards of all ranks. Returns the norm before clipping."""
    return full_tensor(nn.utils.clip_grad_norm_(weights, limit))


def is_sharded(network: nn.Module) -> bool:
    """Whether this rank holds only shards of the weights."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(network, FSDPModule)


def reshard(network: nn.Module) -> None:
    """Free gathered weights, so that the module's weights are the local shards again. Needed after a forward pass without a
    backward pass, and before anything but the optimizer changes the shards. Does nothing where weights are not sharded."""
    from torch.distributed.fsdp import FSDPModule

    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _require_memory(model: ModelConfig, dims: ModelDims, train: TrainConfig, device: torch.device) -> None:
    """Raise TfcliError (ENVIRONMENT) where weights, gradients, running average and optimizer state exceed the machine's memory.
    For a GPU the weights are made on the CPU and moved; the GPU itself refuses what it cannot hold."""
    with torch.device("meta"):
        weights = sum(weight.nbytes for weight in Transfusion(model, dims).parameters())
    # gradients, the average, and the one slot of state that all optimizers have
    copies = 1 if device.type != "cpu" else 3 + bool(train.ema_decay)
    require_memory(
        copies * weights, "training this model", "use a smaller model (model.width, model.layers): see 'tfcli plan'"
    )


def apply_fsdp(network: Transfusion, mesh: DeviceMesh) -> None:
    """Shard the model with FSDP2: blocks are gathered one at a time, the rest (embedding, codec, head) for a whole step.

    Gradients are summed, never averaged: losses are divided by the counts of the global batch. A rank whose rows hold no image
    contributes zeros to the sum.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    for block in network.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
            module.set_reduce_scatter_unused_params(True)


def _buckets(weights: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for weight in weights:
        if bucket and sum(w.numel() for w in bucket) + weight.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(weight)
    yield bucket
