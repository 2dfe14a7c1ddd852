"""The logs of a training: truncated to the step of a resume, never ahead of the weights; trackers get the same figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.core.files import write_jsonl
from stages.train_model.config import TrainConfig
from stages.train_model.monitor.metrics import SKIPPED, MetricsLog
from stages.train_model.trackers import TensorboardTracker, Tracker

KINDS = get_args(Tracker) or (Tracker,)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_files_hold_what_was_flushed_and_resume_from_a_step(tmp_path: Path) -> None:
    first = MetricsLog(tmp_path, (), 0)
    for step in range(1, 5):
        first.add_metrics(step, {"text_loss": 1.0 / step})
        first.add_timing(step, {"seconds": 0.5})
        if step == 3:
            first.flush()
    assert [row["step"] for row in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    second = MetricsLog(tmp_path, (), 2)
    second.add_metrics(2, {"text_loss": 0.5})  # measured again, and the same
    second.add_metrics(3, {"loss": 7.0}, "heldout_")
    second.close()
    assert [row["step"] for row in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert [row["step"] for row in lines(tmp_path / "timing.jsonl")] == [1, 2]
    assert second.last() == {"step": 3, "text_loss": 0.5, "heldout_loss": 7.0}


def test_rows_of_something_else_are_left_out_of_the_timings(tmp_path: Path) -> None:
    """No sum covers the growing file: somebody may have put the metrics there."""
    write_jsonl(tmp_path / "timing.jsonl", [{"step": 1, "text_loss": 1.0}, {"step": 1, "seconds": 0.5}])
    log = MetricsLog(tmp_path, (), 2)
    assert log.timing == [{"step": 1, "seconds": 0.5}]


def test_skipped_steps_in_a_row_are_known_after_a_resume(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, (), 0)
    for step in (2, 4, 5, 6):
        log.add_metrics(step, {SKIPPED: 1.0})
    log.close()
    assert [MetricsLog(tmp_path, (), step).skipped_in_a_row(step) for step in (6, 5, 3, 2)] == [3, 2, 0, 1]
    assert SKIPPED not in log.last()


@pytest.mark.parametrize("kind", KINDS)
def test_a_tracker_whose_extra_is_missing_is_refused(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.train_model.trackers.find_spec", lambda _name: None)
    with pytest.raises(TfcliError) as caught:
        kind().require()
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert caught.value.fix == f"pip install 'tfcli[{kind().kind}]'"


def test_a_recipe_names_trackers_by_kind() -> None:
    for kind in KINDS:
        config = TrainConfig.model_validate({"trackers": [{"kind": kind().kind}]})
        assert config.trackers == (kind(),)
    with pytest.raises(ValueError, match="tensorboard"):
        TrainConfig.model_validate({"trackers": [{"kind": "board"}]})


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = MetricsLog(tmp_path, (TensorboardTracker(),), 0)
    for step in range(1, 6):
        first.add_metrics(step, {"text_loss": float(step)})
        first.add_metrics(step, {"text_loss": -float(step)}, "heldout_")
    first.close()
    second = MetricsLog(tmp_path, (TensorboardTracker(),), 3)
    for step in range(4, 7):
        second.add_metrics(step, {"text_loss": 10.0 * step})
    second.close()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("train/text_loss")] == [
        *((step, float(step)) for step in (1, 2, 3)),
        *((step, 10.0 * step) for step in (4, 5, 6)),
    ]
    assert len(found.Scalars("heldout/text_loss")) == 3


def test_a_resumed_training_reads_the_log_of_its_save_and_not_the_one_that_anybody_could_change(tmp_path: Path) -> None:
    saved = tmp_path / "saves" / "step-00000002"
    saved.mkdir(parents=True)
    rows = [{"step": 1, "text_loss": 2.0}, {"step": 2, "text_loss": 1.0}]
    write_jsonl(saved / "metrics.jsonl", rows)
    write_jsonl(tmp_path / "metrics.jsonl", [{"step": 1, "text_loss": 9.0}])
    assert MetricsLog(tmp_path, (), 2, saved).metrics == rows
    (saved / "metrics.jsonl").unlink()  # a save of before it had one
    assert MetricsLog(tmp_path, (), 2, saved).metrics == [{"step": 1, "text_loss": 9.0}]


@pytest.mark.parametrize("row", ['{"step": 1, "a": "x"}', '{"a": 1}', "[]", '{"step": "1"}', '{"step": 1, "a": [2]}'])
def test_a_log_of_something_else_is_damaged(tmp_path: Path, row: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(row + "\n")
    with pytest.raises(TfcliError, match="is damaged") as caught:
        MetricsLog(tmp_path, (), 2)
    assert caught.value.code == ExitCode.ARTIFACT
