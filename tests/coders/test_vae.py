"""What may be loaded as an autoencoder, and the shapes that it gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderTiny
from safetensors.torch import load_file, save_file

from stages.coders.quality import psnr
from stages.coders.vae import Vae, build_vae, load_vae, save_vae, to_pixels, to_signed
from stages.coders.vae_files import CLASSES
from stages.core.errors import ExitCode, TfcliError
from tests.running import processor_seconds_below

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
    assert np.array_equal(to_pixels(to_signed(torch.from_numpy(pixels))), pixels)
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


def small(name: str) -> Any:
    """A small model of one of the classes that may be loaded."""
    torch.manual_seed(0)
    if name == "AutoencoderKL":
        return build_vae((8, 8), 1, 4, 4)
    if name == "AutoencoderTiny":
        widths, blocks = (8, 8, 8), (1, 1, 1)
        return AutoencoderTiny(
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            num_encoder_blocks=blocks,
            num_decoder_blocks=blocks,
        )
    halves: dict[str, Any] = {}
    for half in ("encoder", "decoder"):
        halves[f"{half}_block_types"] = ("ResBlock", "EfficientViTBlock")
        halves[f"{half}_block_out_channels"] = (8, 16)
        halves[f"{half}_layers_per_block"] = (1, 1)
        halves[f"{half}_qkv_multiscales"] = ((), (5,))
    return AutoencoderDC(latent_channels=8, attention_head_dim=8, scaling_factor=0.4, **halves)


@pytest.mark.parametrize(
    ("name", "channels", "factor", "facts"),
    [
        ("AutoencoderKL", 4, 2, (0.18215, None)),
        ("AutoencoderTiny", 4, 4, (1.0, 0.0)),
        ("AutoencoderDC", 8, 2, (0.4, None)),
    ],
)
def test_every_class_that_may_be_loaded_works(
    tmp_path: Path, name: str, channels: int, factor: int, facts: tuple[float, float | None]
) -> None:
    assert name in CLASSES
    saved = save_vae(Vae(small(name), torch.device("cpu")), tmp_path / "a")
    assert saved["class_name"] == name
    assert (saved["scaling_factor"], saved["shift_factor"]) == facts
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    means = {}
    for precision in ("fp32", "bf16"):
        vae = load_vae(tmp_path / "a", device="cpu", precision=precision)
        assert (vae.latent_channels, vae.downsampling()) == (channels, factor)
        means[precision], deviation = vae.encode(pixels)
        assert means[precision].shape == deviation.shape == (2, channels, 16 // factor, 24 // factor)
        assert (deviation > 0).all() == (name == "AutoencoderKL")
        assert vae.decode(means[precision]).shape == pixels.shape
        assert np.allclose(vae.probe(), saved["probe"], rtol=0.02, atol=0.02)
    error = np.linalg.norm(means["bf16"] - means["fp32"]) / np.linalg.norm(means["fp32"])
    assert 0 < error < 0.03
    # saved again, they are the same weights, whatever hands they went through
    again = save_vae(load_vae(tmp_path / "a", device="cpu"), tmp_path / "b")
    assert again == saved


def test_the_probe_knows_other_weights(folder: Path) -> None:
    before = load_vae(folder, device="cpu").probe()
    weight = load_file(folder / WEIGHTS)["quant_conv.bias"]
    change_weights(folder, "quant_conv.bias", weight + 0.1)
    after = load_vae(folder, device="cpu").probe()
    assert np.allclose(np.subtract(after, before), 0.1, atol=1e-3)


def test_compiling_changes_nothing_but_rounding(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    plain, fast = load_vae(folder, device="cpu"), load_vae(folder, device="cpu", compiled=True)
    assert len(compiled) == 1
    assert np.array_equal(plain.encode(pixels)[0], fast.encode(pixels)[0])


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


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8])
def test_weights_of_eight_bits_are_refused(folder: Path, kind: torch.dtype) -> None:
    name = "encoder.conv_in.weight"
    change_weights(folder, name, load_file(folder / WEIGHTS)[name].to(kind))
    assert f"the weight {name} is" in refused(folder)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_float_types_are_taken(folder: Path, kind: torch.dtype) -> None:
    save_file({name: tensor.to(kind) for name, tensor in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    assert load_vae(folder, device="cpu").probe()


# paths and downloads


def test_a_path_that_exists_or_is_mistyped_is_a_path(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "it is a file" in refused(folder / WEIGHTS)
    assert "it is a file" in refused(f"vae/{WEIGHTS}")  # of the form of a hub id
    for mistyped in ("vae/vea", "./vea", "models/vae.safetensors", "/nowhere/vae"):
        assert "no such folder" in refused(mistyped)


def test_a_pipelines_folder_names_its_autoencoder(folder: Path) -> None:
    (folder.parent / "model_index.json").write_text("{}")
    assert f"give the autoencoder inside: {folder}" in refused(folder.parent)


def test_a_download_in_float16_alone_is_read(folder: Path) -> None:
    expected = load_vae(folder, device="cpu").probe()
    tensors = {name: tensor.half() for name, tensor in load_file(folder / WEIGHTS).items()}
    (folder / WEIGHTS).unlink()
    save_file(tensors, folder / "diffusion_pytorch_model.fp16.safetensors")
    np.testing.assert_allclose(load_vae(folder, device="cpu").probe(), expected, atol=0.01)


def test_diffusers_does_not_ask_to_train(folder: Path) -> None:
    """In a process of its own: its log goes to the stderr that was there when it was imported."""
    change_weights(folder, "encoder.conv_in.bias", None)
    code = "import sys; from stages.coders.vae import load_vae; load_vae(sys.argv[1], device='cpu')"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert "cannot be used" in done.stderr
    assert "TRAIN" not in done.stderr


def test_a_config_is_not_read_from_a_pipe_or_above_a_bound(folder: Path) -> None:
    (folder / "config.json").write_bytes(b" " * (2 << 20) + b"{}")
    assert "config.json" in refused(folder)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "config.json" in refused(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"quantization_config": {"bits": 4}},
        {"norm_num_groups": 0},
        {"norm_num_groups": 3},
        {"norm_num_groups": "many"},
        {"latent_channels": "four"},
        {"latent_channels": 10**9},
        {"latent_channels": -1},
        {"in_channels": 2.5},
        {"block_out_channels": [8, 8192]},
        {"block_out_channels": [8, 10**12]},
        {"block_out_channels": 8},
        {"block_out_channels": []},
        {"block_out_channels": [8] * 1000},
        {"block_out_channels": [8, "8"]},
        {"layers_per_block": 10**6},
        {"layers_per_block": 16},
        {"layers_per_block": [1, 2]},
        {"down_block_types": ["DownEncoderBlock2D"]},
        {"down_block_types": ["os.system", "DownEncoderBlock2D"]},
        {"scaling_factor": float("nan")},
        {"scaling_factor": 1e300},
        {"act_fn": "x" * 1000},
        {"act_fn": "nothing"},
        {"latents_mean": {"a": 1}},
        {"sample_size": "large"},
    ],
    ids=str,
)
def test_a_config_that_cannot_be_is_refused_before_anything_is_built(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with processor_seconds_below(5):
        assert "cannot be used" in refused(folder)
