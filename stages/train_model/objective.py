"""The loss of a batch: next-token cross-entropy on text, squared noise error on images (paper, eq. 4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stages.diffusion.process import image_loss
from stages.model.transformer import Transfusion
from stages.train_model.batches import Batch


def loss_sums(model: Transfusion, batch: Batch) -> tuple[Tensor, Tensor]:
    """(sum of cross-entropy over text targets, sum over images of their mean squared error), both float32 scalars.

    Sums, so that the caller divides by the counts of the whole global batch, however it was cut.
    """
    hidden = model.hidden(batch.inputs, batch.attention)
    logits = model.text_logits(hidden, batch.loss_places).float()
    text = F.cross_entropy(logits, batch.targets, reduction="sum")
    image = hidden.new_zeros((), dtype=text.dtype)
    for inputs, noise in zip(batch.inputs.images, batch.noises, strict=True):
        image = image + image_loss(model.predict_noise(hidden, inputs), noise)
    return text, image
