"""Conversion of LPIPS weights: only arrays come out of the pickle, and the layout is the one torch multiplies with."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.core.errors import TfcliError
from stages.train_autoencoder.losses import Perceptual
from stages.train_autoencoder.lpips_weights import convert

SHAPES = [(11, 11, 3, 64), (5, 5, 64, 192), (3, 3, 192, 384), (3, 3, 384, 256), (3, 3, 256, 256)]


def fake_tree() -> dict[str, Any]:
    draw = np.random.default_rng(0)
    tree: dict[str, Any] = {"AlexNet_0": {}}
    for layer, shape in enumerate(SHAPES):
        kernel = draw.normal(scale=0.05, size=shape).astype(np.float32)
        tree["AlexNet_0"][f"Conv_{layer}"] = {"kernel": kernel, "bias": np.zeros(shape[-1], np.float32)}
        tree[f"NetLinLayer_{layer}"] = {"Conv_0": {"kernel": np.ones((1, 1, shape[-1], 1), np.float32)}}
    return tree


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("owned",)


def test_kernels_are_transposed_and_the_distance_behaves(tmp_path: Path) -> None:
    tree = fake_tree()
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps(tree))
    convert(tmp_path / "a.ckpt", tmp_path / "a.safetensors")
    network = Perceptual.load(tmp_path / "a.safetensors", torch.device("cpu"))
    kernel = tree["AlexNet_0"]["Conv_1"]["kernel"]
    assert network.convolutions[1].weight[7, 3, 1, 4].item() == kernel[1, 4, 3, 7]
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert network(pictures, pictures).item() == 0
    assert network(pictures, -pictures).item() > network(pictures, 0.9 * pictures).item() > 0


def test_a_pickle_that_calls_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ckpt").write_bytes(pickle.dumps({"AlexNet_0": Evil()}))
    with pytest.raises(TfcliError):
        convert(tmp_path / "a.ckpt", tmp_path / "a.safetensors")
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "a.safetensors").exists()
