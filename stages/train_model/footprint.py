"""What a training step costs, found without doing it: the real step on tensors that have shapes but no memory.

Every operator of the forward pass, the backward pass and the optimizer is seen, and the bytes of what is alive are counted.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stages.core.device import autocast
from stages.model.attention import group_mask
from stages.model.config import ModelConfig
from stages.model.grouped import Group, GroupedAttention
from stages.model.transformer import DataFacts, ImageInputs, Inputs, Transfusion
from stages.train_model.arithmetic import Work, model_flops
from stages.train_model.batches import LENGTH_STEP, Batch, Elements, ImageTruth
from stages.train_model.blocks import prepare_blocks
from stages.train_model.config import TrainConfig
from stages.train_model.objective import loss_sums
from stages.train_model.optimisation import build_optimizers, update_average

_CAPTION = 30  # pieces of a caption in the documents that stand for data which is not there yet


@dataclass(frozen=True)
class Footprint:
    """One training step. memory: bytes by kind; `activations` is all that the peak holds beside the kinds before it."""

    parameters: dict[str, int]
    memory: dict[str, int]
    flops: int
    elements: int

    @property
    def peak_bytes(self) -> int:
        return sum(self.memory.values())


def footprint(model: ModelConfig, facts: DataFacts, train: TrainConfig, batches: list[Batch]) -> Footprint:
    """The cost of a step over `batches` (its micro-batches, real ones or from `stand_in`), as on CPU with `train`'s precision."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    alive = _Alive()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, alive:
        network = Transfusion(model, facts)
        prepare_blocks(network, train, torch.device("cpu"))
        weights = alive.bytes
        average = {name: weight.detach().clone() for name, weight in network.named_parameters() if train.ema_decay}
        averages = alive.bytes - weights
        optimizers = build_optimizers(network, train)
        for _ in range(2):  # in the first step the optimizer does not keep anything yet
            alive.peak = alive.bytes
            for batch in batches:
                with autocast(torch.device("cpu"), train.precision):
                    sums = loss_sums(network, batch.map(fake.from_tensor))
                    (sums.text + sums.weighted_image).backward()
                del sums
            gradients = sum(w.grad.nbytes for w in network.parameters() if w.grad is not None)
            torch.nn.utils.clip_grad_norm_(network.parameters(), train.clip_norm)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            update_average(average, network, 0, train.ema_decay)
        states = [state.values() for optimizer in optimizers for state in optimizer.state.values()]
        kept = sum(value.nbytes for values in states for value in values if isinstance(value, Tensor))
        parameters = parameters_by_part(network)
    memory = {"weights": weights, "running average": averages, "optimizer": kept, "gradients": gradients}
    memory["activations"] = max(0, alive.peak - sum(memory.values()))
    work = Work.of(batches)
    return Footprint(parameters, memory, model_flops(model, facts, work), work.elements)


def stand_in(facts: DataFacts, grid: tuple[int, int], row_length: int, rows: int, *, copies: bool = False) -> Batch:
    """A batch like one of pairs and texts in equal parts (paper, section 4.1): in each row as many captions with an image as
    fill half of it, and one text. grid: height and width of the latents. copies: each image also stands there clean, which
    makes the batch longer, not the row. Values are zeros."""
    num_patches = grid[0] * grid[1] // facts.patch_side**2
    pair = _CAPTION + num_patches + 3
    num_pairs = rows * max(1, row_length // 2 // pair)
    rest = max(1, row_length - num_pairs // rows * pair)
    pair += num_patches * copies
    long_pair, long_rest = (-(-length // LENGTH_STEP) * LENGTH_STEP for length in (pair, rest))
    behind = num_pairs * long_pair
    images = torch.full((num_pairs, long_pair), -1)
    no_images = torch.full((rows, long_rest), -1)
    first_patch = _CAPTION + 2  # behind BOS, the caption and BOI
    numbers = torch.arange(num_pairs)[:, None]
    images[:, first_patch : first_patch + num_patches] = numbers
    hidden = (images >= 0) if copies else None
    if copies:
        images[:, first_patch + num_patches : first_patch + 2 * num_patches] = num_pairs + numbers
    is_text = torch.cat((images.flatten(), no_images.flatten())) < 0
    text_places = is_text.nonzero()[:, 0]
    places = numbers * long_pair + first_patch + torch.arange(num_patches)
    latents, ones = torch.zeros(num_pairs, facts.latent_channels, *grid), torch.ones(num_pairs)
    ids = torch.zeros(len(text_places), dtype=torch.long)
    groups = GroupedAttention((Group.of(0, group_mask(images, hidden)), Group.of(behind, group_mask(no_images))))
    owners = torch.tensor([long_pair] * num_pairs + [long_rest] * rows)
    documents = torch.arange(num_pairs + rows).repeat_interleave(owners)
    hidden_N = (
        None if hidden is None else torch.cat((hidden.flatten(), torch.zeros(rows * long_rest, dtype=torch.bool)))
    )
    times = torch.ones(num_pairs, dtype=torch.long)
    return Batch(
        Inputs(
            torch.cat((torch.arange(long_pair).repeat(num_pairs), torch.arange(long_rest).repeat(rows))),
            ids,
            text_places,
            (ImageInputs(latents, times, places),),
            (ImageInputs(latents, 0 * times, places + num_patches),) if copies else (),
        ),
        Elements(documents, torch.cat((images.flatten(), no_images.flatten())), groups, True, hidden_N),
        groups,
        text_places,
        ids,
        (ImageTruth(latents, ones, ones),),
        num_pairs * pair + rows * rest,
        num_pairs * pair**2 + rows * rest**2,
    )


class _Alive(TorchDispatchMode):
    """Bytes of the tensors that are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


def parameters_by_part(network: Transfusion) -> dict[str, int]:
    """Weights of the blocks, of text in and out, and of the patch codec with its time."""

    def count(*modules: nn.Module) -> int:
        return sum(weight.numel() for module in modules for weight in module.parameters())

    return {
        "blocks": count(network.blocks, network.final_norm),
        "text in and out": count(network.text_embedding, network.text_head),
        "patch codec": count(network.patches),
    }
