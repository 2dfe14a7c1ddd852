"""The cost of a step that is not done, against the step that is."""

from __future__ import annotations

import pytest
import torch

from stages.estimate_training.memory import _Alive, footprint, stand_in
from stages.model.config import ModelConfig, UNetCodec
from stages.model.transformer import ModelDims, Transfusion
from stages.train_model.batches import Batch
from stages.train_model.config import TrainConfig
from stages.train_model.objective import loss_sums

DIMS = ModelDims(vocab_size=200, latent_channels=4, patch_side=2)
MODELS = {
    "linear": ModelConfig(width=64, layers=2, heads=2),
    "unet": ModelConfig(width=64, layers=2, heads=2, codec=UNetCodec(channels=16, widest=32, blocks=1)),
}
models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def batch(rows: int = 2) -> Batch:
    return stand_in(DIMS, (8, 12), 512, rows)


def fresh(model: ModelConfig) -> Transfusion:
    network = Transfusion(model, DIMS)
    network.initialise(torch.Generator().manual_seed(0))
    return network


@models
def test_memory_is_that_of_the_step_itself(model: ModelConfig) -> None:
    """The same count over a real step, in which nothing but the weights was there before."""
    network, alive, one = fresh(model), _Alive(), batch()
    with alive:
        sums = loss_sums(network, one)
        (sums.text + sums.weighted_image).backward()
    made = alive.peak  # activations and gradients
    found = footprint(model, DIMS, TrainConfig(ema_decay=0), [batch()]).memory
    assert found["activations"] + found["gradients"] == pytest.approx(made, rel=0.1)


@models
def test_clean_copies_are_counted(model: ModelConfig) -> None:
    """They go through the model, and of the codec only through the way in."""
    plain, with_copies = batch(), stand_in(DIMS, (8, 12), 512, 2, copies=True)
    (images,), (copies,) = with_copies.inputs.images, with_copies.inputs.context
    assert with_copies.num_elements == plain.num_elements + copies.patch_index_IP.numel()
    assert torch.equal(copies.patch_index_IP, images.patch_index_IP + images.patch_index_IP.shape[1])
    sums = loss_sums(fresh(model), with_copies)
    found = footprint(model, DIMS, TrainConfig(), [with_copies])
    assert found.flops > footprint(model, DIMS, TrainConfig(), [plain]).flops
    assert len(sums.eps_mse[0]) == len(images.t_I)


@models
def test_what_is_kept_follows_from_the_number_of_weights(model: ModelConfig) -> None:
    network = fresh(model)
    count = sum(weight.numel() for weight in network.parameters())
    found = footprint(model, DIMS, TrainConfig(ema_decay=0.9), [batch()])
    assert sum(found.parameters.values()) == count
    tensors = len(list(network.parameters()))
    expected = {"weights": 4 * count, "running average": 4 * count, "gradients": 4 * count}
    assert {name: found.memory[name] for name in expected} == expected
    assert found.memory["optimizer"] == 8 * count + 4 * tensors  # two moments, and a count of steps for each tensor
    assert footprint(model, DIMS, TrainConfig(ema_decay=0), [batch()]).memory["running average"] == 0


def test_activations_grow_with_the_rows_and_nothing_else_does() -> None:
    one, four = (footprint(MODELS["linear"], DIMS, TrainConfig(), [batch(rows)]) for rows in (1, 4))
    assert four.memory["activations"] == pytest.approx(4 * one.memory["activations"], rel=0.15)
    assert four.flops == 4 * one.flops
    assert four.elements == 4 * one.elements
    assert [four.memory[name] for name in ("weights", "optimizer")] == [
        one.memory[name] for name in ("weights", "optimizer")
    ]


def test_micro_batches_need_the_memory_of_one() -> None:
    config = TrainConfig()
    whole = footprint(MODELS["linear"], DIMS, config, [batch(4)])
    micro = footprint(MODELS["linear"], DIMS, config, [batch(1)] * 4)
    assert micro.flops == whole.flops
    assert micro.memory["activations"] < 0.4 * whole.memory["activations"]


def test_the_stand_in_is_half_images_and_goes_through_the_model() -> None:
    made = batch()
    (images,) = made.inputs.images
    patches, text = images.patch_index_IP.numel(), len(made.inputs.text_ids_T)
    assert sorted([*images.patch_index_IP.flatten().tolist(), *made.inputs.text_index_T.tolist()]) == list(
        range(patches + text)
    )
    assert images.patch_index_IP.shape[1] == 24
    assert made.num_elements == pytest.approx(2 * 512, rel=0.15)
    assert 0.1 < patches / (patches + text) < 0.5
    sums = loss_sums(fresh(MODELS["linear"]), made)
    assert sums.text > 0
