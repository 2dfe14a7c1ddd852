"""A model optimized for inference against the model itself."""

from __future__ import annotations

import copy

import pytest
import torch

from stages.model.attention import DenseAttention, allowed
from stages.model.config import ModelConfig
from stages.model.cpu import inference
from stages.model.cpu.inference import FusedBlock, key_value_dtype, optimize_for_inference
from stages.model.transformer import ImageInputs, Inputs, ModelDims, Transfusion


def scrambled(*, qk_norm: bool) -> Transfusion:
    """A model in which no weight, not even of its norms, has its initial value."""
    generator = torch.Generator().manual_seed(3)
    model = Transfusion(
        ModelConfig(width=48, layers=3, heads=3, qk_norm=qk_norm, norm_epsilon=0.05), ModelDims(31, 2, 2)
    )
    model.initialise(generator)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.copy_(torch.rand(weight.shape, generator=generator) + 0.5)
    return model.eval()


def outputs(model: Transfusion) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and the image's prediction of a document of three tokens, an image and two more tokens; logits of one token."""
    patch_index_P = torch.arange(3, 7)
    image = ImageInputs(
        torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([7]), patch_index_P[None]
    )
    text = torch.tensor([0, 1, 2, 7, 8])
    inputs = Inputs(torch.arange(9), torch.tensor([5, 9, 3, 4, 11]), text, (image,))
    images = torch.full((9,), -1).index_fill(0, patch_index_P, 0)
    with torch.inference_mode():
        logits, (predicted,) = model(inputs, DenseAttention(allowed(torch.zeros(9), images)), text)
        one = Inputs(torch.tensor([6]), torch.tensor([12]), torch.tensor([0]), ())
        alone, _ = model(one, DenseAttention(torch.ones(1, 1, dtype=torch.bool)), torch.tensor([0]))
    return logits.float(), predicted.float(), alone.float()


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 5e-6), (torch.bfloat16, 0.04)], ids=str)
def test_fused_blocks_give_what_blocks_give(qk_norm: bool, dtype: torch.dtype, bound: float) -> None:
    model = scrambled(qk_norm=qk_norm)
    optimized = optimize_for_inference(copy.deepcopy(model), dtype, 1000)
    assert all(isinstance(block, FusedBlock) for block in optimized.blocks)
    assert key_value_dtype(optimized) == dtype
    for found, expected in zip(outputs(optimized), outputs(model), strict=True):
        error = (found - expected).norm() / expected.norm()
        assert 0 < error < bound


def test_without_onednn_blocks_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = scrambled(qk_norm=False)
    expected = outputs(model)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(inference, "onednn_product", None)  # not there at all
    optimized = optimize_for_inference(model, torch.float32, 1000)
    assert not any(isinstance(block, FusedBlock) for block in optimized.blocks)
    for found, value in zip(outputs(optimized), expected, strict=True):
        assert torch.allclose(found, value, atol=1e-4)
