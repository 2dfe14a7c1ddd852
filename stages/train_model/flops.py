"""Floating-point operations of a training step, by the one formula that plans and running trainings are measured with.

Only what the content needs is counted, so that padding, recomputation and waste lower the utilisation (MFU):

    6 x (4 D^2 + 3 D F) x layers   an element: the matrices of a block (D width, F feed-forward), 2 forward and 4 backward
    12 x D x layers x sum L^2      attention, over documents of L elements, the square whole and not its causal half
    6 x D x V                      a text target: the vocabulary head
    3 x the codec's forward pass   an image: patches and time, both ways; of clean copies the way in

Norms, rotations, softmax, the embedding look-up and the optimizer count as nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch

from stages.model.config import ModelConfig
from stages.model.patches import build_patches
from stages.model.transformer import ImageInputs, ModelDims
from stages.train_model.batches import Batch


@dataclass(frozen=True)
class Work:
    """What some forward passes have to do. images: number by (height, width) of the latents; read: those that are only read.
    places: elements and padding."""

    elements: int
    places: int
    targets: int
    squared_lengths: int
    images: Counter[tuple[int, int]]
    read: Counter[tuple[int, int]]

    @classmethod
    def of(cls, batches: list[Batch]) -> Work:
        """The content of the batches."""
        return cls(
            sum(batch.num_elements for batch in batches),
            sum(len(batch.inputs.positions_N) for batch in batches),
            sum(len(batch.targets) for batch in batches),
            sum(batch.squared_lengths for batch in batches),
            _sizes(image for batch in batches for image in batch.inputs.images),
            _sizes(image for batch in batches for image in batch.inputs.context),
        )

    def __add__(self, other: Work) -> Work:
        return Work(
            self.elements + other.elements,
            self.places + other.places,
            self.targets + other.targets,
            self.squared_lengths + other.squared_lengths,
            self.images + other.images,
            self.read + other.read,
        )


def model_flops(model: ModelConfig, facts: ModelDims, work: Work) -> int:
    """Forward and backward, as at the top of this file."""
    width, layers = model.width, model.layers
    blocks = 6 * (4 * width**2 + 3 * width * model.feed_forward_width) * layers * work.elements
    attention = 12 * width * layers * work.squared_lengths
    head = 6 * width * facts.vocab_size * work.targets
    codec = sum(
        3 * number * _flops_of_image(model, facts, *grid, out=out)
        for images, out in ((work.images, True), (work.read, False))
        for grid, number in images.items()
    )
    return blocks + attention + head + codec


def _sizes(images: Iterable[ImageInputs]) -> Counter[tuple[int, int]]:
    sizes: Counter[tuple[int, int]] = Counter()
    for image in images:
        height, width = image.latents_IChw.shape[-2:]
        sizes[height, width] += len(image.t_I)
    return sizes


@cache
def _flops_of_image(model: ModelConfig, facts: ModelDims, height: int, width: int, *, out: bool) -> int:
    """The codec's forward pass, in and (out) back again, for one image more: what two take beyond one."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():
        patches = build_patches(model.codec, facts.latent_channels, facts.patch_side, model.width, model.time_features)
        totals = []
        for number in (1, 2):
            latents, times = torch.zeros(number, facts.latent_channels, height, width), torch.zeros(number)
            with FlopCounterMode(display=False) as counter:
                encoded = patches.encode(latents, times)
                if out:
                    patches.decode(encoded.vectors_IPD, encoded)
            totals.append(counter.get_total_flops())
    return int(totals[1] - totals[0])
