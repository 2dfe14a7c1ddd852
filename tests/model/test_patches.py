"""The vector of a patch: its time and its position in the grid, against the formulas in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.model.config import LinearCodec
from stages.model.patches import LinearPatches, TimeEmbedding, grid_sinusoids


def silu(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return x / (1 + np.exp(-x))


def test_a_time_is_256_sinusoids_and_a_small_network() -> None:
    """Cosines, then sines, of t times 10,000^(-i/128) (Vaswani et al. 2017, section 3.5)."""
    torch.manual_seed(0)
    embedding = TimeEmbedding(256, 12, 5)
    t = np.array([0, 1, 37, 999, 1000])
    angles = t[:, None] * 10_000.0 ** (-np.arange(128) / 128)
    first, second = (
        (layer.weight.detach().numpy().astype(float), layer.bias.detach().numpy().astype(float))
        for layer in (embedding.first, embedding.second)
    )
    inner = silu(np.concatenate([np.cos(angles), np.sin(angles)], 1) @ first[0].T + first[1])
    expected = inner @ second[0].T + second[1]
    assert embedding(torch.from_numpy(t)).detach().numpy() == pytest.approx(expected, abs=1e-4)


def test_each_patch_of_a_grid_has_its_own_sinusoids_by_row_and_column() -> None:
    """In raster order, for a grid that is no square: sines of the row and of the column, by halves, then the cosines."""
    found = grid_sinusoids(2, 5, 64, torch.device("cpu"))
    assert len({tuple(each) for each in found.numpy().round(4).tolist()}) == 10
    frequencies = np.pi / 2.0 ** np.arange(16)
    for row in range(2):
        for column in range(5):
            angles = np.concatenate([row * frequencies, column * frequencies])
            expected = np.concatenate([np.sin(angles), np.cos(angles)])
            assert found[5 * row + column].numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("at", ["patch", "vector"])
def test_a_vector_is_the_patch_its_time_and_its_grid_position(at: str) -> None:
    """W (patch) + time + position, or W (patch + time) + position."""
    torch.manual_seed(0)
    codec = LinearCodec.model_validate(
        {"time_at": at, "grid_positions": True} if at == "patch" else {"grid_positions": True}
    )
    assert codec.time_at == at
    patches = LinearPatches(codec, 8, 2, 6, 256)
    latents, t = torch.randn(1, 2, 4, 6), torch.tensor([321])
    with torch.no_grad():
        encoded = patches.encode(latents, t)
        time = patches.time(t)[0]
        assert patches.place is not None
        sinusoids = grid_sinusoids(2, 3, 64, torch.device("cpu"))
        for row in range(2):
            for column in range(3):
                values = latents[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten()
                inward = patches.inward(values + time) if at == "patch" else patches.inward(values) + time
                expected = inward + patches.place.weight @ sinusoids[3 * row + column]
                assert torch.allclose(encoded.vectors_IPD[0, 3 * row + column], expected, atol=1e-5)
