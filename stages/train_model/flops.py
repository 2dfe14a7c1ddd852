"""Floating-point operations of a training step: the formula behind the estimates of `tfcli plan` and the MFU of a training.

Only what the content needs is counted, so that padding and recomputation lower the model FLOPs utilisation (MFU):

    6 x (4 D^2 + 3 D F) x layers   for each element: the matrices of a block (D width, F feed-forward), 2 forward, 4 backward
    12 x D x layers x sum L^2      attention over documents of L elements; the full square, not its causal half
    6 x D x V                      for each text target: the vocabulary head
    3 x the codec's forward pass   for each image: encoder and decoder of the patch codec; for context images the encoder

Norms, rotary embeddings, softmax, the embedding look-up and the optimizer are not counted.
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
    """The content of some micro-batches.

    Args:
        elements: text tokens and image patches, copies included, without padding.
        padded_elements: elements and padding.
        targets: text tokens with a loss.
        squared_lengths: sum over documents of the square of their elements.
        images: number of images with a loss, each draw of one, by (height, width) of their latents.
        context: number of images that are only read, by (height, width) of their latents.
    """

    elements: int
    padded_elements: int
    targets: int
    squared_lengths: int
    images: Counter[tuple[int, int]]
    context: Counter[tuple[int, int]]

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
            self.padded_elements + other.padded_elements,
            self.targets + other.targets,
            self.squared_lengths + other.squared_lengths,
            self.images + other.images,
            self.context + other.context,
        )


def model_flops(model: ModelConfig, dims: ModelDims, work: Work) -> int:
    """Operations of the forward and the backward pass over `work`, by the formula at the top of this file."""
    width, layers = model.width, model.layers
    blocks = 6 * model.block_weights * work.elements
    attention = 12 * width * layers * work.squared_lengths
    head = 6 * width * dims.vocab_size * work.targets
    codec = sum(
        3 * number * _flops_of_image(model, dims, *grid, out=out)
        for images, out in ((work.images, True), (work.context, False))
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
def _flops_of_image(model: ModelConfig, dims: ModelDims, height: int, width: int, *, out: bool) -> int:
    """Operations of the codec's encoder, and with `out` its decoder, for one more image: those of two less those of one."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.no_grad():
        patches = build_patches(model.codec, dims.latent_channels, dims.patch_side, model.width, model.time_features)
        totals = []
        for number in (1, 2):
            latents, times = torch.zeros(number, dims.latent_channels, height, width), torch.zeros(number)
            with FlopCounterMode(display=False) as counter:
                encoded = patches.encode(latents, times)
                if out:
                    patches.decode(encoded.vectors_IPD, encoded)
            totals.append(counter.get_total_flops())
    return int(totals[1] - totals[0])
