"""A model that no memory of the machine could hold is refused before a byte of it is made, with what it would take."""

from __future__ import annotations

import pytest
import torch

from stages.core import memory
from stages.core.errors import ExitCode, TfcliError
from stages.model.config import ModelConfig
from stages.model.transformer import ModelDims, Transfusion
from stages.train_model.config import TrainConfig
from stages.train_model.distributed.ranks import Ranks

DIMS = ModelDims(300, 4, 2)


def test_a_model_larger_than_the_machine() -> None:
    """16 TB of weights: the real memory of the machine is asked; without the check Linux refuses them one matrix at a time, or
    grants them and ends the process."""
    vast = ModelConfig(width=400_000, heads=4, layers=8)
    with pytest.raises(TfcliError) as caught:
        Ranks().build_model(vast, DIMS, TrainConfig(), 0)
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert caught.value.what == "training this model does not fit into memory"
    assert "model.width" in caught.value.fix


@pytest.mark.parametrize("average", [0.0, 0.999])
def test_what_training_keeps_of_each_weight_counts(monkeypatch: pytest.MonkeyPatch, average: float) -> None:
    config = TrainConfig(ema_decay=average)
    model = ModelConfig(width=32, layers=1, heads=2)
    weights = sum(weight.nbytes for weight in Transfusion(model, DIMS).parameters())
    least = weights * (4 if average else 3)  # weight, gradient, a slot of the optimizer, average
    monkeypatch.setattr(memory, "all_bytes", lambda: least)
    assert isinstance(Ranks().build_model(model, DIMS, config, 0), torch.nn.Module)
    monkeypatch.setattr(memory, "all_bytes", lambda: least - 1)
    with pytest.raises(TfcliError, match="does not fit into memory"):
        Ranks().build_model(model, DIMS, config, 0)
