"""Latents that say nothing are refused; those of one picture, or of blank ones, are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.coders.quality import refuse_silent
from stages.coders.vae import build_vae, load_vae
from stages.core.errors import ExitCode, TfcliError

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("values", [0.0, 3.25, -1000.0, 1e-8])
def test_constant_latents_of_different_pictures_are_refused(values: float) -> None:
    means = np.full((4, 2, 4, 4), values, np.float32)
    means[:, 1] = 1.0  # another value in each channel says as little
    with pytest.raises(TfcliError, match="say nothing") as caught:
        refuse_silent(list(means), list(PICTURES))
    assert caught.value.code == ExitCode.ARTIFACT
    assert "each channel has one value" in caught.value.why


def test_latents_that_differ_anywhere_pass() -> None:
    means = np.zeros((4, 2, 4, 4), np.float32)
    means[2, 1, 0, 0] = 0.5
    refuse_silent(list(means), list(PICTURES))
    refuse_silent([RNG.normal(size=(2, 4, 4)).astype(np.float32)], [PICTURES[0]])
    refuse_silent([np.float32(1e6) + means[0] + RNG.normal(size=(2, 4, 4)).astype(np.float32) * 100], [PICTURES[0]])


def test_blank_pictures_may_have_constant_latents() -> None:
    refuse_silent([np.zeros((2, 4, 4), np.float32)] * 2, [np.full((16, 16, 3), 200, np.uint8)] * 2)
    with pytest.raises(TfcliError):
        refuse_silent(
            [np.zeros((2, 4, 4), np.float32)] * 2, [np.full((16, 16, 3), grey, np.uint8) for grey in (0, 200)]
        )


def test_an_autoencoder_whose_weights_are_zero_is_refused_by_its_latents(tmp_path: Path) -> None:
    torch.manual_seed(0)
    build_vae((8, 8), 1, 4, 4).save_pretrained(tmp_path, safe_serialization=True)
    good = load_vae(tmp_path, device="cpu")
    refuse_silent([good.encode(PICTURES)[0]], list(PICTURES))
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}, file)
    zero = load_vae(tmp_path, device="cpu")
    with pytest.raises(TfcliError, match="say nothing"):
        refuse_silent([zero.encode(PICTURES)[0]], list(PICTURES))
