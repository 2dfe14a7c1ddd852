"""The loss of a batch: next-token cross-entropy on text, squared noise error on images (paper, eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from stages.diffusion.process import image_errors
from stages.model.transformer import Transfusion
from stages.train_model.batches import Batch


@dataclass(frozen=True)
class LossSums:
    """Sums over a batch, float32 scalars: cross-entropy over text targets; error over images, plain and weighted.

    Sums, so that the caller divides by the counts of the whole global batch, however it was cut.
    """

    text: Tensor
    image: Tensor
    weighted_image: Tensor


def loss_sums(model: Transfusion, batch: Batch) -> LossSums:
    """One forward pass; both losses come from it."""
    hidden = model.hidden(batch.inputs, batch.attention)
    logits = model.text_logits(hidden, batch.loss_places).float()
    text = F.cross_entropy(logits, batch.targets, reduction="sum")
    image = weighted = hidden.new_zeros((), dtype=text.dtype)
    for inputs, noise, weights in zip(batch.inputs.images, batch.noises, batch.weights, strict=True):
        errors = image_errors(model.predict_noise(hidden, inputs), noise)
        image, weighted = image + errors.sum(), weighted + (errors * weights).sum()
    return LossSums(text, image, weighted)
