"""Ways of running the blocks compute the same: bit for bit where activations are made again, to rounding where compiled."""

from __future__ import annotations

import pytest
import torch

from stages.core.device import autocast
from stages.estimate_training.memory import footprint, stand_in
from stages.model.config import ModelConfig
from stages.model.transformer import ModelDims, Transfusion
from stages.train_model.blocks import prepare_blocks
from stages.train_model.config import TrainConfig
from stages.train_model.objective import loss_sums

DIMS = ModelDims(vocab_size=200, latent_channels=4, patch_side=2)
MODEL = ModelConfig(width=64, layers=3, heads=2, qk_norm=True)
CPU = torch.device("cpu")


def gradients(train: TrainConfig) -> torch.Tensor:
    network = Transfusion(MODEL, DIMS)
    names = [name for name, _ in network.named_parameters()]
    prepare_blocks(network, train, CPU)
    network.initialise(torch.Generator().manual_seed(0))
    assert [name for name, _ in network.named_parameters()] == names
    for row_length in (256, 320, 480):  # groups of other lengths: a compiled block may not remember them
        with autocast(CPU, train.precision):
            sums = loss_sums(network, stand_in(DIMS, (8, 12), row_length, 2))
            loss = sums.text + sums.weighted_image
        loss.backward()
    return torch.cat([w.grad.flatten() for w in network.parameters() if w.grad is not None])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_activations_give_bit_equal_gradients(precision: str) -> None:
    plain = gradients(TrainConfig.model_validate({"precision": precision}))
    for way in ("full", "selective"):
        found = gradients(TrainConfig.model_validate({"precision": precision, "checkpointing": way}))
        assert torch.equal(found, plain), way
    assert plain.norm() > 0


def test_less_is_kept_and_weights_are_as_many() -> None:
    costs = [
        footprint(MODEL, DIMS, TrainConfig.model_validate({"checkpointing": way}), [stand_in(DIMS, (8, 12), 512, 4)])
        for way in ("none", "selective", "full")
    ]
    memory = [cost.memory["activations"] for cost in costs]
    assert memory[0] > 1.2 * memory[1] > 1.2 * memory[2]
    assert costs[0].memory["weights"] == costs[2].memory["weights"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, when its compiler is imported
@pytest.mark.parametrize("way", ["none", "full", "selective"])
def test_compiled_blocks_give_the_same_gradients_to_rounding(way: str) -> None:
    plain = gradients(TrainConfig())
    found = gradients(TrainConfig.model_validate({"compile": True, "checkpointing": way}))
    assert (found - plain).norm() < 1e-5 * plain.norm()
    assert not torch.equal(found, plain)  # another kernel did run
