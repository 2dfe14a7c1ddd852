"""The formula for floating-point operations, against a count of what a real step multiplies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from stages.estimate_training.memory import stand_in
from stages.model.config import LinearCodec, ModelConfig, UNetCodec
from stages.model.rotary import Rotary, apply_rotary
from stages.model.transformer import ModelDims, Transfusion
from stages.train_model.flops import Work, model_flops
from stages.train_model.objective import loss_sums

DIMS = ModelDims(vocab_size=200, latent_channels=4, patch_side=2)
MODELS = {
    "linear": ModelConfig(width=64, layers=2, heads=2, codec=LinearCodec(grid_positions=True)),
    "unet": ModelConfig(width=64, layers=3, heads=2, codec=UNetCodec(channels=16, widest=32, blocks=1)),
}


@dataclass(frozen=True)
class WrittenOut:
    """Attention document by document as plain matrix products: FlopCounterMode does not see the fused kernels of the CPU."""

    lengths: list[int]

    def __call__(self, layer: int, qkv_N3Hd: Tensor, rotary: Rotary) -> Tensor:
        del layer
        parts = [x.transpose(0, 1).split(self.lengths, dim=1) for x in apply_rotary(qkv_N3Hd, rotary)]
        return torch.cat([(q @ k.mT).softmax(-1) @ v for q, k, v in zip(*parts, strict=True)], dim=1).transpose(0, 1)


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_formula_is_what_a_step_without_padding_multiplies(model: ModelConfig, copies: bool, draws: int) -> None:
    """But for the gradients of the latents, which nobody asks for, and what is made once for all images."""
    batch = stand_in(DIMS, (6, 10), 512, 2, copies=copies, draws=draws)
    lengths = torch.bincount(batch.elements.documents_N).tolist()
    batch = replace(batch, attention=WrittenOut(lengths))
    network = Transfusion(model, DIMS)
    known = {torch.ops.mkldnn._linear_pointwise: lambda x, weight, *_, **__: 2 * x[0] * x[1] * weight[0]}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        sums = loss_sums(network, batch)
        (sums.text + sums.weighted_image).backward()
    work = Work.of([batch])
    if copies or draws > 1:  # they never fill the padded length
        work = replace(work, elements=work.padded_elements, squared_lengths=sum(length**2 for length in lengths))
    assert work.padded_elements == work.elements
    patches = torch.cat([image.patch_index_IP.flatten() for image in batch.inputs.all_images])
    assert patches.sort().values.equal((batch.elements.images_N >= 0).nonzero()[:, 0])
    images = sum(work.images.values())
    assert images == draws * sum(Work.of([stand_in(DIMS, (6, 10), 512, 2)]).images.values())
    assert work.context == (Counter({(6, 10): images // draws}) if copies else Counter())
    counted = counter.get_total_flops()
    assert counted <= model_flops(model, DIMS, work) < 1.02 * counted


def test_padding_counts_as_nothing_and_work_adds_up() -> None:
    padded = Work.of([stand_in(DIMS, (8, 12), 512, 2)])
    assert padded.padded_elements > padded.elements
    model = MODELS["linear"]
    full = Work(padded.elements, padded.elements, padded.targets, padded.squared_lengths, padded.images, padded.context)
    assert model_flops(model, DIMS, padded) == model_flops(model, DIMS, full)
    assert model_flops(model, DIMS, padded + full) == 2 * model_flops(model, DIMS, full)
    parts = Work.of([stand_in(DIMS, (8, 12), 512, 1)] * 2)
    assert parts == padded
