"""The memory and operations of a training step, found by running it on fake tensors, which have shapes but no memory.

Every operator of the forward pass, the backward pass and the optimizer is intercepted, and the bytes of all live tensors are
counted.
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
from stages.model.cpu.attention import Group, GroupedAttention
from stages.model.transformer import ImageInputs, Inputs, ModelDims, Transfusion
from stages.train_model.batches import Batch, Elements
from stages.train_model.blocks import prepare_blocks
from stages.train_model.config import TrainConfig
from stages.train_model.flops import Work, model_flops
from stages.train_model.images import ImageTruth
from stages.train_model.layout import LENGTH_STEP
from stages.train_model.objective import loss_sums
from stages.train_model.optimizer import build_optimizers, update_average

_CAPTION = 30  # tokens of a caption in a stand-in for data that does not exist yet


@dataclass(frozen=True)
class Footprint:
    """The cost of one training step on one device.

    Args:
        parameters: number of weights by part of the model.
        memory: bytes by kind; `activations` is what the peak holds in addition to the other kinds.
        flops: floating-point operations, by the formula of flops.py.
        elements: of the batch, without padding.
    """

    parameters: dict[str, int]
    memory: dict[str, int]
    flops: int
    elements: int

    @property
    def peak_bytes(self) -> int:
        return sum(self.memory.values())


def footprint(model: ModelConfig, dims: ModelDims, train: TrainConfig, batches: list[Batch]) -> Footprint:
    """The cost of a step over the micro-batches `batches` (real ones or from `stand_in`) on CPU, with train.precision."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    alive = _Alive()
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, alive:
        network = Transfusion(model, dims)
        prepare_blocks(network, train, torch.device("cpu"))
        weights = alive.bytes
        average = {name: weight.detach().clone() for name, weight in network.named_parameters() if train.ema_decay}
        averages = alive.bytes - weights
        optimizers = build_optimizers(network, train)
        for _ in range(2):  # before the first step the optimizer has no state
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
    return Footprint(parameters, memory, model_flops(model, dims, work), work.elements)


def pair_length(patch_side: int, grid: tuple[int, int]) -> int:
    """Elements of a caption with its image in a stand-in. grid: height and width of the latents."""
    return _CAPTION + grid[0] * grid[1] // patch_side**2 + 3


def stand_in(
    dims: ModelDims, grid: tuple[int, int], row_length: int, rows: int, *, copies: bool = False, draws: int = 1
) -> Batch:
    """A batch of zeros with the shapes of equal parts of pairs and texts (paper, section 4.1): each row has as many captions with
    an image as fill half of it, and one text.

    Args:
        dims: sizes of the vocabulary, latents and patches.
        grid: height and width of the latents.
        row_length: elements in a packed row.
        rows: number of rows.
        copies: whether each image has a clean copy, which makes the batch longer, not the row.
        draws: how often each image is there with noise, which makes the batch longer too.
    """
    num_patches = grid[0] * grid[1] // dims.patch_side**2
    pair = pair_length(dims.patch_side, grid)
    num_pairs = rows * max(1, row_length // 2 // pair)
    rest = max(1, row_length - num_pairs // rows * pair)
    pair += num_patches * (draws - 1 + copies)
    pair_step, rest_step = (-(-length // LENGTH_STEP) * LENGTH_STEP for length in (pair, rest))
    numbers = torch.arange(num_pairs)[:, None]
    images = torch.full((num_pairs, pair_step), -1)
    private = torch.zeros_like(images, dtype=torch.bool) if copies or draws > 1 else None
    first_patch = [
        _CAPTION + 2 + copy * num_patches for copy in range(draws + copies)
    ]  # after BOS, the caption and BOI
    for copy, first in enumerate(first_patch):
        images[:, first : first + num_patches] = copy * num_pairs + numbers
        if private is not None:
            private[:, first : first + num_patches] = copy < len(first_patch) - 1
    elements = _stand_in_elements(images, private, rows, rest_step)
    text_index = (elements.images_N < 0).nonzero()[:, 0]
    ids = torch.zeros(len(text_index), dtype=torch.long)
    patch_index = [numbers * pair_step + first + torch.arange(num_patches) for first in first_patch]
    latents, ones = torch.zeros(num_pairs * draws, dims.latent_channels, *grid), torch.ones(num_pairs * draws)
    times = torch.ones(num_pairs * draws, dtype=torch.long)
    return Batch(
        Inputs(
            torch.cat((torch.arange(pair_step).repeat(num_pairs), torch.arange(rest_step).repeat(rows))),
            ids,
            text_index,
            (ImageInputs(latents, times, torch.cat(patch_index[:draws])),),
            (ImageInputs(latents[:num_pairs], 0 * times[:num_pairs], patch_index[draws]),) if copies else (),
        ),
        elements,
        elements.groups,
        text_index,
        ids,
        (ImageTruth(latents, ones, ones),),
        num_pairs * pair + rows * rest,
        num_pairs * pair**2 + rows * rest**2,
    )


def _stand_in_elements(images: Tensor, private: Tensor | None, rows: int, text_length: int) -> Elements:
    """What the mask of a stand-in follows from. images: image of each element of the pairs, -1 for text, (pairs, length).
    private: patches that only their own image sees, of the same shape. The texts follow the pairs."""
    num_pairs, pair_length = images.shape
    no_images = torch.full((rows, text_length), -1)
    lengths = torch.tensor([pair_length] * num_pairs + [text_length] * rows)
    groups = GroupedAttention(
        (Group.of(0, group_mask(images, private)), Group.of(num_pairs * pair_length, group_mask(no_images)))
    )
    private_N = None
    if private is not None:
        private_N = torch.cat((private.flatten(), torch.zeros(rows * text_length, dtype=torch.bool)))
    documents = torch.arange(num_pairs + rows).repeat_interleave(lengths)
    return Elements(documents, torch.cat((images.flatten(), no_images.flatten())), groups, True, private_N)


class _Alive(TorchDispatchMode):
    """Bytes of the live tensors, now and at most."""

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
    """Number of weights of the blocks, of text embedding and head, and of the patch codec with its time embedding."""

    def count(*modules: nn.Module) -> int:
        return sum(weight.numel() for module in modules for weight in module.parameters())

    return {
        "blocks": count(network.blocks, network.final_norm),
        "text in and out": count(network.text_embedding, network.text_head),
        "patch codec": count(network.patches),
    }
