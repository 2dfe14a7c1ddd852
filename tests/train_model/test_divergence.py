"""Steps that are not taken, and loss spikes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Event, Warn
from stages.train_model.config import TrainConfig
from stages.train_model.monitor.divergence import DivergenceMonitor

ROWS = np.array([4, 7])


def watched(in_a_row: int = 0, **settings: object) -> tuple[DivergenceMonitor, list[Event]]:
    events: list[Event] = []
    return DivergenceMonitor(TrainConfig.model_validate(settings), events.append, in_a_row), events


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_not_finite_stops_and_names_the_rows(index: int, value: float) -> None:
    monitor, _ = watched()
    figures = [1.0, 1.0, 1.0, 1.0]
    assert monitor.check_step(0, figures, ROWS)
    figures[index] = value
    with pytest.raises(TfcliError, match="diverged at step 3") as caught:
        monitor.check_step(3, figures, ROWS)
    assert caught.value.code == ExitCode.DIVERGED
    assert "[4, 7]" in caught.value.why


def test_steps_are_skipped_up_to_the_limit_in_a_row() -> None:
    monitor, events = watched(on_nonfinite="skip", skip_limit=2)
    bad, good = [math.nan] * 4, [1.0] * 4
    taken = [monitor.check_step(step, figures, ROWS) for step, figures in enumerate([bad, bad, good, bad, bad])]
    assert taken == [False, False, True, False, False]
    assert len(events) == 4
    with pytest.raises(TfcliError, match="after 2 skipped steps in a row") as caught:
        monitor.check_step(5, bad, ROWS)
    assert caught.value.code == ExitCode.DIVERGED


def test_skips_before_a_resume_count() -> None:
    monitor, _ = watched(in_a_row=2, on_nonfinite="skip", skip_limit=2)
    with pytest.raises(TfcliError):
        monitor.check_step(5, [math.nan] * 4, ROWS)


def test_a_loss_spike_is_warned_of_once_the_window_is_full() -> None:
    noise = np.random.default_rng(0).normal(2, 0.1, size=300)
    monitor, events = watched()
    for step in range(127):
        monitor.check_step(step, [noise[step], 1, 1, 1], ROWS)
    monitor.check_step(127, [9.0, 1, 1, 1], ROWS)  # the window is not full
    assert events == []
    monitor, events = watched()
    for step in range(300):
        monitor.check_step(step, [noise[step], 1, 1, 1], ROWS)
    assert events == []
    monitor.check_step(300, [2 + 0.1 * 7.5, 1, 1, 1], ROWS)
    (warning,) = events
    assert isinstance(warning, Warn)
    assert "step 300" in warning.text
    monitor.check_step(301, [2 + 0.1 * 4, 1, 1, 1], ROWS)  # not so far off
    assert len(events) == 1
