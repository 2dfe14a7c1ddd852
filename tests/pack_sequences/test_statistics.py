"""The statistics of latents are those of the training side: what is held out changes nothing that a model is trained with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.artifacts import sequences as sequences_module
from stages.artifacts.latents import Latents
from stages.artifacts.sequences import Sequences, Side
from stages.pack_sequences.config import PackConfig
from tests.builders import POSTERIOR_DEVIATION, Story, make_all

STORIES = [
    *[Story((f"a pair {number}", None), heldout=number % 2 == 0) for number in range(60)],
    *[Story((f"a wide one {number}", None), wide=True, heldout=number % 2 == 0) for number in range(20)],
    *[Story((f"for the end {number}", None), source="late") for number in range(20)],
]
PACK = PackConfig(row_length=64, weights={"late": 0}, late_weights={"late": 1}, passes=3, heldout_fraction=0)


def moments(sequences: Sequences, *sides: Side) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of posterior draws per channel over the pictures of some sides, each once."""
    latents, values = Latents.open(sequences.latents_folder()), []
    used = {(int(row), int(grid)) for side in sides for row, grid in sequences.split(side).images[:, 3:5]}
    for row, grid in used:
        mean, std = latents.rows(grid).read(np.array([row]))[0].astype(np.float64)
        assert (std == np.float32(POSTERIOR_DEVIATION)).all()
        values.append(mean.reshape(2, -1))
    flat = np.concatenate(values, axis=1)
    return flat.mean(1).tolist(), np.sqrt(flat.var(1) + np.float64(np.float32(POSTERIOR_DEVIATION)) ** 2).tolist()


def test_statistics_are_those_of_all_that_is_trained_on_and_of_nothing_else(tmp_path: Path) -> None:
    sequences = Sequences.open(make_all(tmp_path, STORIES, PACK))
    content = sequences.content
    assert content.heldout_rows > 0
    mean, std = moments(sequences, "train", "late")
    assert content.channel_mean == pytest.approx(mean, rel=1e-9)
    assert content.channel_std == pytest.approx(std, rel=1e-9)
    others: list[tuple[Side, ...]] = [("train",), ("train", "heldout", "late")]
    for sides in others:
        other, _ = moments(sequences, *sides)
        assert abs(np.array(other) - mean).min() > 1e-3


@pytest.mark.parametrize("limit", ["_MEASURED_LATENTS", "_MEASURED_SHARDS"])
def test_of_many_latents_some_of_all_parts_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """An even choice, and never more than the limits: latents may be more than a machine can read in a day."""
    exact = Sequences.open(make_all(tmp_path / "a", STORIES * 4, PACK)).content
    monkeypatch.setattr(sequences_module, limit, {"_MEASURED_LATENTS": 50, "_MEASURED_SHARDS": 3}[limit])
    some = Sequences.open(make_all(tmp_path / "b", STORIES * 4, PACK))
    assert some.content.channel_mean != exact.channel_mean
    spread = 4 * np.array(exact.channel_std) / np.sqrt(50 * 16)
    assert (abs(np.array(some.content.channel_mean) - exact.channel_mean) < spread).all()
    tables = [some.split("train"), some.split("late")]
    chosen = list(sequences_module.measured_latents(tables, 64))
    assert {grid for grid, _ in chosen} == {0, 1}
    if limit == "_MEASURED_LATENTS":
        assert sum(len(rows) for _, rows in chosen) == 50
    else:
        assert len({(grid, int(row) // 64) for grid, rows in chosen for row in rows}) == 3


def test_without_a_picture_to_train_on_latents_stay_as_they_are(tmp_path: Path) -> None:
    stories = [
        *[Story((f"a line of text {number}",), fixed_order=True) for number in range(20)],
        *[Story((f"a pair {number}", None), heldout=True) for number in range(4)],
    ]
    content = Sequences.open(make_all(tmp_path, stories, PackConfig(row_length=64, heldout_fraction=0))).content
    assert (content.channel_mean, content.channel_std) == ([0.0, 0.0], [1.0, 1.0])
