"""What may be loaded as an autoencoder, and the shapes that it gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.coders.vae import build_vae, load_vae, psnr, to_pixels, to_signed
from stages.core.errors import ExitCode, TfcliError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    build_vae((8, 8), 1, 4, 4).save_pretrained(tmp_path / "vae", safe_serialization=True)
    return tmp_path / "vae"


def refused(folder: Path | str, code: ExitCode = ExitCode.ARTIFACT) -> str:
    with pytest.raises(TfcliError) as caught:
        load_vae(folder, device="cpu")
    assert caught.value.code == code
    return str(vars(caught.value))


def change_weights(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors[name]
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, folder / WEIGHTS)


def test_pixels_survive_the_way_to_signed_and_back() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(to_pixels(to_signed(pixels)), pixels)
    assert psnr(pixels, pixels) > 100 > psnr(pixels, 255 - pixels)


def test_encode_and_decode_have_the_right_shapes(folder: Path) -> None:
    vae = load_vae(folder, device="cpu")
    mean, deviation = vae.encode(np.zeros((3, 16, 16, 3), np.uint8))
    assert mean.shape == deviation.shape == (3, 4, 8, 8)
    assert mean.dtype == deviation.dtype == np.float32
    assert (deviation > 0).all()
    assert (vae.downsampling(), vae.latent_channels) == (2, 4)
    after = vae.decode(mean)
    assert after.shape == (3, 16, 16, 3)
    assert after.dtype == np.uint8


def test_only_safetensors(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "diffusion_pytorch_model.bin")
    assert "pickle" in refused(folder)


def test_a_git_lfs_pointer_is_named(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    assert "git lfs pull" in refused(folder)


def test_a_missing_weight_is_named(folder: Path) -> None:
    change_weights(folder, "encoder.conv_in.weight", None)
    assert "encoder.conv_in.weight" in refused(folder)


def test_a_nan_is_found(folder: Path) -> None:
    change_weights(folder, "decoder.conv_out.bias", torch.tensor([0.0, float("nan"), 0.0]))
    assert "decoder.conv_out.bias" in refused(folder)


def test_cut_weights_are_refused(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    refused(folder)


def test_another_class_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DModel"}))
    assert "UNet2DModel" in refused(folder)


def test_a_hub_id_needs_its_commit() -> None:
    assert "40-hex" in refused("org/vae", ExitCode.USAGE)
