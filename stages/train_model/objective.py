"""The objective of a training step (paper, eq. 4): L = L_LM + lambda L_diffusion.

    L_LM          mean cross-entropy of the next token over the text targets of the global batch; that of text before the first
                  image of its document counts diffusion.prompt_weight (paper: 1)
    L_diffusion   mean over the images of the global batch of w(t) times the squared error of the model's output, itself a mean
                  over the latent values of an image (eq. 3); w(t) is diffusion.weighting
    lambda        diffusion.image_weight (paper: 5)

The lines that compute it, for each micro-batch, are in `loss_sums` and `step_losses` below:

    logits, outputs = model(batch.inputs, batch.attention, batch.loss_index)
    text = weighted_text = F.cross_entropy(logits.float(), batch.targets, reduction="sum")
    errors = image_errors(output, truth.target_IChw)
    weighted = weighted + (errors * truth.weights_I).sum()
    loss = sums.weighted_text / max(1, num_targets) + image_weight * sums.weighted_image / max(1, num_images)

`image_errors` is eq. 3, in stages/diffusion/process.py. Targets, weights w(t) and noised latents are made in images.py
(`ImageMaker.make`). `Training._forward_backward` in stage.py runs the backward pass of `loss`.
"""

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
    """Sums over a batch, float32 scalars; the caller divides by the counts of the global batch, which may be split into several
    micro-batches.

    Args:
        text: cross-entropy over the text targets, which is what logs report.
        weighted_text: the same with the weights of the targets, which is what is trained.
        image: over the images, the squared error converted to that of the noise eps, which is what logs report.
        weighted_image: over the images, the weighted squared error of the model's output, which is what is trained.
        eps_mse: the terms of `image`, shape (I,) for each grid, without gradients.
    """

    text: Tensor
    weighted_text: Tensor
    image: Tensor
    weighted_image: Tensor
    eps_mse: tuple[Tensor, ...]


def loss_sums(model: Transfusion, batch: Batch) -> LossSums:
    """Both losses from one forward pass."""
    logits, outputs = model(batch.inputs, batch.attention, batch.loss_index)
    if batch.target_weights is None:
        text = weighted_text = F.cross_entropy(logits.float(), batch.targets, reduction="sum")
    else:
        entropies_T = F.cross_entropy(logits.float(), batch.targets, reduction="none")
        text, weighted_text = entropies_T.detach().sum(), (entropies_T * batch.target_weights).sum()
    weighted = text.new_zeros(())
    eps_mse = []
    for output, truth in zip(outputs, batch.images, strict=True):
        errors = image_errors(output, truth.target_IChw)
        eps_mse.append(errors.detach() * truth.eps_mse_factor_I)
        weighted = weighted + (errors * truth.weights_I).sum()
    image = torch.stack([errors.sum() for errors in eps_mse]).sum() if eps_mse else text.new_zeros(())
    return LossSums(text, weighted_text, image, weighted, tuple(eps_mse))


def step_losses(sums: LossSums, num_targets: float, num_images: float, image_weight: float) -> tuple[Tensor, Tensor]:
    """The share of one micro-batch in the losses of a step: L, a float32 scalar to run the backward pass from, and without
    gradients (L, text loss, image loss), float32, shape (3,).

    Args:
        sums: of the micro-batch.
        num_targets: text targets of the global batch.
        num_images: images with a loss of the global batch.
        image_weight: lambda.
    """
    loss = sums.weighted_text / max(1, num_targets) + image_weight * sums.weighted_image / max(1, num_images)
    text, image = sums.text / max(1, num_targets), sums.image / max(1, num_images)
    return loss, torch.stack((loss, text, image)).detach()


def named_losses(text: float, num_targets: float, image: float, num_images: float) -> dict[str, float]:
    """The mean losses by the name of their metric, without those that have nothing to average over."""
    return ({"text_loss": text} if num_targets else {}) | ({"image_loss": image} if num_images else {})
