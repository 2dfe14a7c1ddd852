"""A whole training of a few steps: what happens to steps that are not finite, and what is written on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.artifacts.checkpoint import read_tensors
from stages.artifacts.context import StageContext
from stages.artifacts.folder import building
from stages.artifacts.manifest import Manifest
from stages.artifacts.sequences import Sequences
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Event, Note, Progress, Warn
from stages.core.runtime import Runtime
from stages.diffusion.config import DiffusionConfig
from stages.generation.config import GenerationConfig
from stages.model.config import ModelConfig
from stages.pack_sequences.config import PackConfig
from stages.train_model import stage
from stages.train_model.batches import rows_of_step
from stages.train_model.config import TrainConfig
from tests.builders import Story, make_all, stamp

STEPS = 12


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stories = [Story((f"a text about the number {number}", None)) for number in range(40)]
    return make_all(tmp_path_factory.mktemp("data"), stories, PackConfig(row_length=64, patch_side=2))


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Steps (counted by calls of the loss in training) whose text loss is not a number."""
    steps: set[int] = set()
    real, calls = stage.loss_sums, []

    def loss_sums(model: Any, batch: Any) -> Any:
        sums = real(model, batch)
        if torch.is_grad_enabled():
            calls.append(None)
            if len(calls) - 1 in steps:
                return replace(sums, text=sums.text * torch.nan)
        return sums

    monkeypatch.setattr(stage, "loss_sums", loss_sums)
    return steps


def train(sequences: Path, target: Path, events: list[Event], **settings: Any) -> Manifest:
    config = TrainConfig.model_validate(
        {"steps": STEPS, "warmup_steps": 2, "save_every": 4, "eval_every": 6, "log_every": 3, **settings}
    )
    made = stamp("checkpoint", "train", {"sequences": sequences}, target)
    runtime = Runtime(report=events.append, device="cpu")
    with building(target, made, runtime) as build:
        sections = (ModelConfig(width=16, layers=1, heads=2), DiffusionConfig(), config, GenerationConfig())
        stage.run(*sections, sequences, StageContext(build, runtime, 0))
    assert build.sealed is not None
    return build.sealed


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_training_writes_its_figures_and_its_report(sequences: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    manifest = train(sequences, tmp_path / "checkpoint", events)
    volatile = {entry.path for entry in manifest.files if entry.volatile}
    assert volatile == {"timing.jsonl", "report.html"}
    timing = rows(tmp_path / "checkpoint" / "timing.jsonl")
    assert [row["step"] for row in timing] == [3, 6, 9, 12]
    assert all(row["elements_per_second"] < row["places_per_second"] for row in timing)
    assert all(0 < row["mfu"] < 1 and 0 < row["loading_share"] < 1 for row in timing)
    assert timing[-1]["seconds_left"] == 0 < timing[0]["seconds_left"]
    shown = [event for event in events if isinstance(event, Progress)][-1].fields
    assert {"text", "image", "epoch", "norm", "rate", "el/s", "padding", "MFU", "data", "GB"} == set(shown)
    assert any(isinstance(event, Note) and "report.html" in event.text for event in events)
    page = (tmp_path / "checkpoint" / "report.html").read_text()
    assert page.count("<svg") >= 8
    assert "sample.generation" in page
    assert manifest.inputs["sequences"].digest[:12] in page


def test_a_loss_that_is_not_finite_stops_before_the_optimizer(
    sequences: Path, tmp_path: Path, broken: set[int]
) -> None:
    broken.add(5)
    with pytest.raises(TfcliError, match="diverged at step 5") as caught:
        train(sequences, tmp_path / "checkpoint", [])
    assert caught.value.code == ExitCode.DIVERGED
    assert "text loss nan" in caught.value.why
    saves = sorted((tmp_path / "checkpoint.partial" / "saves").iterdir())
    assert [path.name for path in saves] == ["step-00000004"]
    assert all(bool(value.isfinite().all()) for value in read_tensors(saves[0] / "weights.safetensors").values())


@pytest.mark.parametrize(("call", "named"), [(2, [0, 1]), (3, [2])])
def test_the_rows_of_the_micro_batch_are_named(
    sequences: Path, tmp_path: Path, broken: set[int], call: int, named: list[int]
) -> None:
    """Of three rows in micro-batches of two, in the second step."""
    broken.add(call)
    with pytest.raises(TfcliError) as caught:
        train(sequences, tmp_path / "checkpoint", [], batch_rows=3, micro_rows=2)
    of_step = rows_of_step(Sequences.open(sequences).content.num_rows, 3, 0, 1)
    assert caught.value.why.endswith(f"; rows {of_step[named].tolist()}")


def test_skipped_steps_change_nothing_and_are_in_the_log(sequences: Path, tmp_path: Path, broken: set[int]) -> None:
    broken.update((2, 5, 6))
    events: list[Event] = []
    train(sequences, tmp_path / "checkpoint", events, on_nonfinite="skip", skip_limit=2)
    metrics = rows(tmp_path / "checkpoint" / "metrics.jsonl")
    assert [row["step"] for row in metrics if "skipped" in row] == [3, 6, 7]
    assert [row["step"] for row in metrics if "text_loss" in row] == [9, 12]
    assert sum(isinstance(event, Warn) for event in events) == 3
    counts = read_tensors(tmp_path / "checkpoint" / "optimizer.safetensors")
    assert {float(value) for name, value in counts.items() if name.startswith("step/")} == {STEPS - 3.0}


def test_too_many_skips_in_a_row_end_the_training_also_over_a_resume(
    sequences: Path, tmp_path: Path, broken: set[int]
) -> None:
    broken.update((3, 4, 5))
    settings = {"on_nonfinite": "skip", "skip_limit": 2}
    with pytest.raises(TfcliError, match="step 5, after 2 skipped steps in a row"):
        train(sequences, tmp_path / "checkpoint", [], **settings)
    broken.clear()
    broken.update((6, 7))  # the calls go on: steps 4 and 5 again, and step 3 was skipped before the save
    with pytest.raises(TfcliError, match="step 5, after 2 skipped steps in a row"):
        train(sequences, tmp_path / "checkpoint", [], **settings)


def test_a_missing_extra_is_refused_before_anything_is_trained(
    sequences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.train_model.trackers.find_spec", lambda _name: None)
    events: list[Event] = []
    with pytest.raises(TfcliError) as caught:
        train(sequences, tmp_path / "checkpoint", events, trackers=[{"kind": "tensorboard"}])
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert events == []
