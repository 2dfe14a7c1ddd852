"""Overfitting is reported once, by a stated rule, and the best weights are kept whatever ends the training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.artifacts.checkpoint import EMA, WEIGHTS, read_tensors
from stages.artifacts.context import StageContext
from stages.artifacts.folder import building
from stages.artifacts.manifest import Manifest
from stages.core.config import result_config
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Event, Note, Progress, Warn
from stages.core.runtime import Runtime
from stages.diffusion.config import DiffusionConfig
from stages.generation.config import GenerationConfig
from stages.model.config import ModelConfig
from stages.pack_sequences.config import PackConfig
from stages.train_model import stage
from stages.train_model.config import TrainConfig
from stages.train_model.monitor import overfitting
from stages.train_model.monitor.overfitting import best_step, epochs, metric_points, rises
from tests.builders import Story, make_all, stamp

STEPS = 60


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few rows, which a small model memorises after some epochs."""
    stories = [
        Story((f"a text about {number * 7919 % 1000} and {number * 104729 % 997}", None)) for number in range(30)
    ]
    return make_all(tmp_path_factory.mktemp("data"), stories, PackConfig(row_length=64, patch_side=2))


def train(sequences: Path, target: Path, events: list[Event], **settings: Any) -> Manifest:
    defaults = {
        "steps": STEPS,
        "warmup_steps": 2,
        "save_every": 10,
        "eval_every": 5,
        "log_every": 20,
        "learning_rate": 2e-2,
    }
    config = TrainConfig.model_validate({**defaults, "ema_decay": 0.0, **settings})
    made = stamp("checkpoint", "train", {"sequences": sequences}, target)
    runtime = Runtime(report=events.append, device="cpu")
    model = ModelConfig(width=32, layers=2, heads=2)
    with building(target, made, runtime) as build:
        if build.sealed is None:
            stage.run(model, DiffusionConfig(), config, GenerationConfig(), sequences, StageContext(build, runtime, 0))
        assert build.sealed is not None
        return build.sealed


@pytest.mark.parametrize(
    ("values", "steps", "rising"),
    [
        ([3, 2, 1, 1.05, 1.08, 1.09], 60, False),  # less than 10 %
        ([3, 2, 1, 1.2, 1.2], 50, False),  # two measurements ago
        ([3, 2, 1, 1.2, 1.2, 1.2], 60, True),
        ([3, 2, 1, 1.2, 1.2, 1.2], 1000, False),  # 30 steps of 1,000
        ([3, 2, 1, 1.5, 1.4, 1.05], 60, False),  # it came back
        ([1], 10, False),
        ([], 10, False),
    ],
)
def test_the_rule(values: list[float], steps: int, rising: bool) -> None:
    assert rises([(10 * index, value) for index, value in enumerate(values)], steps) == rising


def test_figures_that_are_not_finite_are_no_best() -> None:
    rows = [{"step": 0, "a": None}, {"step": 1, "a": 2.0}, {"step": 2, "b": 1.0}, {"step": 3, "a": float("nan")}]
    assert best_step(metric_points(rows, "a")) == 1
    assert best_step(metric_points(rows, "a"), 0) is None
    assert best_step([(1, 2.0), (2, 2.0)]) == 1


def test_a_loss_that_rises_is_reported_once_and_epochs_are_shown(sequences: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    train(sequences, tmp_path / "checkpoint", events)
    warned = [event.text for event in events if isinstance(event, Warn) and "overfitting" in event.text]
    assert sorted(text.split(" rises")[0] for text in warned) == ["the held-out image loss", "the held-out text loss"]
    assert any('train.keep_best = "heldout_text_loss"' in text for text in warned)
    shown = [event.fields["epoch"] for event in events if isinstance(event, Progress)]
    assert len(shown) == 3
    assert float(shown[-1]) > 5
    assert epochs(10, TrainConfig(batch_rows=3), 60) == "0.50"


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_the_best_weights_are_sealed(sequences: Path, tmp_path: Path, ema_decay: float) -> None:
    events: list[Event] = []
    made = train(sequences, tmp_path / "best", events, keep_best="heldout_text_loss", ema_decay=ema_decay)
    rows = [json.loads(line) for line in (tmp_path / "best" / "metrics.jsonl").read_text().splitlines()]
    step = best_step(metric_points(rows, "heldout_text_loss"))
    assert step is not None
    assert 0 < step < STEPS  # else nothing is shown
    assert made.stats["best"] == {"figure": "heldout_text_loss", "step": step}
    lowest = min(value for _, value in metric_points(rows, "heldout_text_loss"))
    assert made.stats["losses"]["heldout_text_loss"] == lowest
    assert any(isinstance(event, Note) and f"those of step {step}" in event.text for event in events)
    assert not (tmp_path / "best" / "saves").exists()
    last = train(sequences, tmp_path / "last", [], ema_decay=ema_decay)
    assert "best" not in last.stats
    file = EMA if ema_decay else WEIGHTS
    best, other = (read_tensors(tmp_path / name / file) for name in ("best", "last"))
    assert any(not torch.equal(best[name], other[name]) for name in best)
    again = train(sequences, tmp_path / "again", [], keep_best="heldout_text_loss", ema_decay=ema_decay, save_every=7)
    assert again.stats["best"]["step"] == step
    assert all(torch.equal(best[name], tensor) for name, tensor in read_tensors(tmp_path / "again" / file).items())


def test_a_file_next_to_the_best_weights_is_kept(
    sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = overfitting.OverfittingMonitor._keep

    def plant(monitor: overfitting.OverfittingMonitor, state: Any) -> None:
        monitor.folder.mkdir(parents=True, exist_ok=True)
        (monitor.folder / "step-notes.txt").write_text("mine")
        keep(monitor, state)

    monkeypatch.setattr(overfitting.OverfittingMonitor, "_keep", plant)
    train(sequences, tmp_path / "checkpoint", [], keep_best="heldout_text_loss", steps=12)
    assert [path.read_text() for path in tmp_path.glob("checkpoint.kept-*/saves/best/step-notes.txt")] == ["mine"]


class Killed(BaseException):
    """Stands for kill -9."""


@pytest.fixture(scope="module")
def whole(sequences: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return train(sequences, tmp_path_factory.mktemp("whole") / "whole", [], keep_best="heldout_text_loss")


@pytest.mark.parametrize("at", [12, 31, 47, 59])
def test_kept_weights_are_exact_after_a_kill(
    sequences: Path, whole: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    calls = iter(range(10**6))
    real = stage.update_average

    def dies(*words: Any) -> None:
        if next(calls) == at:
            raise Killed
        real(*words)

    monkeypatch.setattr(stage, "update_average", dies)
    with pytest.raises(Killed):
        train(sequences, tmp_path / "cut", [], keep_best="heldout_text_loss")
    made = train(sequences, tmp_path / "cut", [], keep_best="heldout_text_loss")
    assert made.digest == whole.digest
    assert made.stats["best"] == whole.stats["best"]


def test_best_weights_that_are_gone_are_missed_at_the_start(
    sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overfitting.OverfittingMonitor, "load_best", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        train(sequences, tmp_path / "checkpoint", [], keep_best="heldout_text_loss")
    monkeypatch.undo()
    (folder,) = tmp_path.glob("checkpoint.partial/saves/best")
    shutil.rmtree(folder)
    with pytest.raises(TfcliError) as failed:
        train(sequences, tmp_path / "checkpoint", [], keep_best="heldout_text_loss")
    assert failed.value.code == ExitCode.ARTIFACT


def test_a_figure_that_is_never_measured_is_refused(tmp_path: Path) -> None:
    stories = [Story((f"a text about the number {number}",)) for number in range(40)]
    sequences = make_all(tmp_path / "data", stories, PackConfig(row_length=64, patch_side=2))
    with pytest.raises(TfcliError, match="never measured") as failed:
        train(sequences, tmp_path / "checkpoint", [], keep_best="heldout_image_loss")
    assert failed.value.code == ExitCode.USAGE


def test_only_a_set_figure_is_part_of_the_fingerprint() -> None:
    assert "keep_best" not in result_config(TrainConfig())
    assert result_config(TrainConfig(keep_best="heldout_text_loss"))["keep_best"] == "heldout_text_loss"
