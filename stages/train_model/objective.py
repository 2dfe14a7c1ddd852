"""The loss of a batch: next-token cross-entropy on text, squared error on images (paper, eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.diffusion.process import image_errors
from stages.model.transformer import Transfusion
from stages.train_model.batches import Batch


@dataclass(frozen=True)
class LossSums:
    """Sums over a batch, float32 scalars: cross-entropy over text targets; over images, the error of the noise as it is
    reported and the weighted error of the target as it is trained. noise_errors: the reported error of each image, by grid,
    without a gradient.

    Sums, so that the caller divides by the counts of the whole global batch, however it was cut.
    """

    text: Tensor
    image: Tensor
    weighted_image: Tensor
    noise_errors: tuple[Tensor, ...]


def loss_sums(model: Transfusion, batch: Batch) -> LossSums:
    """One forward pass; both losses come from it."""
    logits, outputs = model(batch.inputs, batch.attention, batch.loss_places)
    text = F.cross_entropy(logits.float(), batch.targets, reduction="sum")
    weighted = text.new_zeros(())
    noise_errors = []
    for output, truth in zip(outputs, batch.images, strict=True):
        errors = image_errors(output, truth.target_IChw)
        noise_errors.append(errors.detach() * truth.noise_errors_I)
        weighted = weighted + (errors * truth.weights_I).sum()
    image = torch.stack([errors.sum() for errors in noise_errors]).sum() if noise_errors else text.new_zeros(())
    return LossSums(text, image, weighted, tuple(noise_errors))
