"""Rows of the late side are read in the last steps and in no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.artifacts.sequences import Sequences
from stages.diffusion.config import DiffusionConfig
from stages.model.config import ModelConfig
from stages.pack_sequences.config import PackConfig
from stages.train_model.config import TrainConfig
from stages.train_model.data import Data
from stages.train_model.distributed.ranks import Ranks
from tests.builders import Story, make_all

STORIES = [
    *[Story((f"a photo {number}", None), source="photos") for number in range(30)],
    *[Story((f"a drawing {number}", None), source="drawings") for number in range(30)],
]


@pytest.mark.parametrize(("share", "first"), [(0.1, 18), (0.01, 19), (0.0, 20), (1.0, 0)])
def test_the_last_steps_read_the_late_rows(tmp_path: Path, share: float, first: int) -> None:
    config = PackConfig(row_length=64, heldout_fraction=0, condition_dropout=0, late_weights={"photos": 0})
    folder = make_all(tmp_path, STORIES, config)
    data = Data(folder, DiffusionConfig(), ModelConfig())
    train = TrainConfig(steps=20, batch_rows=3, late_share=share)
    assert data.late_from(train) == first
    sequences = Sequences.open(folder)
    for step in (0, first - 1, first, 19):
        if not 0 <= step < 20:
            continue
        table = sequences.split("late" if step >= first else "train")
        rows = data.rows(train, step, 0)
        (batch,) = data.batches(train, rows, step, 0, Ranks())
        images = np.concatenate([table.images[table.row_images[row] : table.row_images[row + 1]] for row in rows])
        assert batch.num_images == len(images)
        ids = table.ids[rows]
        assert sorted(batch.inputs.text_ids_T.tolist()) == sorted(ids[ids != data.content.pad].tolist())
        sources = {int(document) // 30 for document in table.documents[images[:, 5], 3]}
        assert sources == ({1} if step >= first else {0, 1})


def test_the_late_side_begins_at_its_own_first_pass(tmp_path: Path) -> None:
    """Each late row is read once before any is read twice, at whatever step the phase begins."""
    config = PackConfig(row_length=64, heldout_fraction=0, condition_dropout=0, late_weights={"photos": 0})
    data = Data(make_all(tmp_path, STORIES, config), DiffusionConfig(), ModelConfig())
    rows = data.content.late_rows
    assert rows > 3
    for steps in range(rows + 1, 2 * rows):  # steps before the phase that are no multiple of a pass among them
        train = TrainConfig(steps=steps, batch_rows=1, late_share=rows / steps)
        first = data.late_from(train)
        assert steps - first >= rows
        line = [int(data.rows(train, step, 0)[0]) for step in range(first, first + rows)]
        assert sorted(line) == list(range(rows))


def test_without_a_late_side_nothing_changes(tmp_path: Path) -> None:
    data = Data(make_all(tmp_path, STORIES, PackConfig(row_length=64)), DiffusionConfig(), ModelConfig())
    assert data.late is None
    assert data.late_from(TrainConfig(steps=20, late_share=1.0)) == 20
