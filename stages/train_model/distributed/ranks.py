"""Many processes at one training: which one this is, what they tell each other, how weights and gradients are shared.

Started by torchrun, each process takes its rows of every global step. With train.sharding = "none" each holds all weights
and gradients are summed over the processes; else torch's FSDP2 cuts every weight into equal parts along its first
dimension, over all processes ("full") or within groups of train.shard_group that keep copies of each other ("hybrid").
The only file that knows torch.distributed, beside `sharded_state.py` (parts on disk) and `launch.py` (how processes meet).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from stages.core.errors import ExitCode, TfcliError
from stages.core.seeds import torch_generator
from stages.model.config import ModelConfig
from stages.model.transformer import ModelDims, Transfusion
from stages.train_model.blocks import prepare_blocks
from stages.train_model.config import TrainConfig

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_BUCKET = 2**24  # numbers in one sum of gradients: 64 MB


@dataclass(frozen=True)
class Ranks:
    """This process among `count`. mesh: over which weights are cut, None where each process holds all of them."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    index: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None

    @property
    def main(self) -> bool:
        """Whether this process writes the log, the saves' records and the artifact."""
        return self.index == 0

    def share(self, batch_rows: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """This process' places in a batch: a run of them, none where there are fewer rows than processes."""
        return np.array_split(np.arange(batch_rows), self.count)[self.index]

    def passes(self, batch_rows: int, micro_rows: int) -> int:
        """Forward passes of the fullest share. With cut weights every process has to make as many, as they gather weights
        together."""
        fullest = -(-batch_rows // self.count)
        return -(-fullest // (micro_rows or fullest))

    def add(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes, in float64."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        sums: list[float] = total.tolist()
        return sums

    def added(self, values: Tensor) -> Tensor:
        """The same of a tensor on the device, without waiting for it."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def most(self, value: int) -> int:
        """The largest value that a process has."""
        if self.count == 1:
            return value
        found = torch.tensor(value)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def wait(self) -> None:
        """Until all processes are here."""
        self.most(0)

    def agreed(self, error: TfcliError) -> TfcliError:
        """For a failure that all processes see alike: the main one tells it, the others leave with the same code in silence."""
        return error if self.main else TfcliError("", code=error.code)

    def network(self, model: ModelConfig, facts: ModelDims, train: TrainConfig, seed: int) -> Transfusion:
        """The model on the device with its first weights, which do not depend on the number of processes."""
        generator = torch_generator(seed, "weights")
        if self.mesh is None:
            network = Transfusion(model, facts)
            prepare_blocks(network, train, self.device)
            network.initialise(generator)
            return network.to(self.device)
        with torch.device("meta"):
            network = Transfusion(model, facts)
        prepare_blocks(network, train, self.device)
        _cut(network, self.mesh)
        network.to_empty(device=self.device)
        network.initialise(generator, put)
        return network

    def add_gradients(self, network: Transfusion, num_images: float, num_read: float) -> None:
        """Sum the gradients over the processes; cut weights were summed by the backward pass.

        What no element of the whole global batch reached has no gradient, as in a single process: the optimizer leaves it as it
        is. num_images: with a loss, without which the patch codec's way out has none. num_read: only read, as a given picture is
        (way in).
        """
        if self.count == 1 and self.mesh is None:
            return
        used: list[nn.Parameter] = []
        unused: list[nn.Parameter] = []
        for name, weight in network.named_parameters():
            _, _, part = name.partition("patches.")
            reached = num_images if part.split(".")[0] in network.patches.OUT else num_images + num_read
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
    """The mesh that a recipe asks for. Raises TfcliError (USAGE) where the groups do not go round."""
    from torch.distributed.device_mesh import init_device_mesh

    if train.sharding == "none":
        return None
    if train.sharding == "full":
        return init_device_mesh(device.type, (count,), mesh_dim_names=("shard",))
    if count % train.shard_group:
        what = f"{count} processes do not go round in groups of train.shard_group = {train.shard_group}"
        raise TfcliError(what, fix='another group, or train.sharding = "full"', code=ExitCode.USAGE)
    shape = (count // train.shard_group, train.shard_group)
    return init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))


def put(weight: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into a weight, of which this process may hold a part only."""
    with torch.no_grad():
        part(weight).copy_(part_for(weight, whole))


def put_all(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Fill all weights from whole tensors of the same names."""
    weights = dict(network.named_parameters())
    assert weights.keys() == tensors.keys(), "whoever calls knows that they belong to this model"
    for name, tensor in tensors.items():
        put(weights[name], tensor)


def part_for(weight: Tensor, whole: Tensor) -> Tensor:
    """What this process would hold of a whole tensor that is cut as `weight` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(weight, DTensor):
        return whole
    # src_data_rank None: every process has the whole tensor, nothing is sent
    cut = distribute_tensor(whole.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)
    return part(cut)


def part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process; all have to ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def clip(weights: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Clip the gradients by their norm over all weights, parts of other processes included; the norm before that."""
    return whole(nn.utils.clip_grad_norm_(weights, limit))


def is_cut(network: nn.Module) -> bool:
    """Whether this process holds parts of the weights only."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(network, FSDPModule)


def let_go(network: nn.Module) -> None:
    """Drop gathered weights, so that the parts are the module's weights again: after a forward pass without a backward one,
    and before parts are changed otherwise than by the optimizer. Nothing where weights are not cut."""
    from torch.distributed.fsdp import FSDPModule

    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _cut(network: Transfusion, mesh: DeviceMesh) -> None:
    """Blocks are gathered one at a time; what lies around them (embedding, codec, head) for the length of a step.

    Gradients are summed, never averaged: losses are divided by the counts of the whole batch. A process whose rows hold no
    image takes part in the sum with zeros.
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
