"""A held-out loss that is not finite: the state is saved, the rows are named, or the figure is null."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts.checkpoint import Checkpoint
from stages.artifacts.context import StageContext
from stages.artifacts.folder import building
from stages.core.errors import ExitCode, TfcliError
from stages.core.runtime import Runtime
from stages.diffusion.config import DiffusionConfig
from stages.generation.config import GenerationConfig
from stages.train_model import stage
from stages.train_model.config import TrainConfig
from tests.builders import Story, make_all, stamp
from tests.train_model.test_finetune import MODEL, PACK

TRAIN = TrainConfig(steps=4, batch_rows=1, warmup_steps=1, eval_rows=1, eval_every=2, save_every=100)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_all(tmp_path_factory.mktemp("made"), [Story((f"thing {n}", None)) for n in range(12)], PACK)


def run(target: Path, sequences: Path, config: TrainConfig) -> None:
    with building(target, stamp("checkpoint", "train", {"sequences": sequences}, target), Runtime()) as build:
        stage.run(MODEL, DiffusionConfig(), config, GenerationConfig(), sequences, StageContext(build, Runtime(), 0))


def poison(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    measured = stage.heldout_losses

    def losses(state: Any, *rest: Any) -> tuple[dict[str, float], list[int]]:
        found, bad = measured(state, *rest)
        if state.step == at:
            return {**found, "image_loss": float("inf")}, [0]
        return found, bad

    monkeypatch.setattr(stage, "heldout_losses", losses)


@pytest.mark.parametrize("at", [2, 4])
def test_it_ends_the_training_after_the_save_and_the_next_run_finishes(
    tmp_path: Path, sequences: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    run(tmp_path / "whole", sequences, TRAIN)
    with monkeypatch.context() as patch:
        poison(patch, at)
        with pytest.raises(TfcliError, match="rows \\[0\\] of the held-out side") as caught:
            run(tmp_path / "cut", sequences, TRAIN)
    assert caught.value.code == ExitCode.DIVERGED
    assert [path.name for path in (tmp_path / "cut.partial" / "saves").iterdir()] == [f"step-{at:08d}"]
    run(tmp_path / "cut", sequences, TRAIN)
    whole, cut = (Checkpoint.open(tmp_path / name).manifest for name in ("whole", "cut"))
    weights = [next(one.sha256 for one in each.files if one.path == "weights.safetensors") for each in (whole, cut)]
    assert weights[0] == weights[1]


def test_skip_continues_with_null_in_the_metrics(
    tmp_path: Path, sequences: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 2)
    run(tmp_path / "made", sequences, TRAIN.model_copy(update={"on_nonfinite": "skip"}))
    rows = [json.loads(line) for line in (tmp_path / "made" / "metrics.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if row["step"] == 2 and "heldout_image_loss" in row]
    assert row["heldout_image_loss"] is None
    assert Checkpoint.open(tmp_path / "made").manifest.stats["losses"]["heldout_image_loss"] is not None
