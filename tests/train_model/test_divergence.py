"""Steps that are not taken, and losses that leap."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Event, Warn
from stages.train_model.config import TrainConfig
from stages.train_model.monitor.divergence import Health

ROWS = np.array([4, 7])


def watched(in_a_row: int = 0, **settings: object) -> tuple[Health, list[Event]]:
    events: list[Event] = []
    return Health(TrainConfig.model_validate(settings), events.append, in_a_row), events


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_not_finite_stops_and_names_the_rows(place: int, value: float) -> None:
    health, _ = watched()
    figures = [1.0, 1.0, 1.0, 1.0]
    assert health.takes(0, figures, ROWS)
    figures[place] = value
    with pytest.raises(TfcliError, match="diverged at step 3") as caught:
        health.takes(3, figures, ROWS)
    assert caught.value.code == ExitCode.DIVERGED
    assert "[4, 7]" in caught.value.why


def test_steps_are_skipped_up_to_the_limit_in_a_row() -> None:
    health, events = watched(on_nonfinite="skip", skip_limit=2)
    bad, good = [math.nan] * 4, [1.0] * 4
    taken = [health.takes(step, figures, ROWS) for step, figures in enumerate([bad, bad, good, bad, bad])]
    assert taken == [False, False, True, False, False]
    assert len(events) == 4
    with pytest.raises(TfcliError, match="after 2 steps in a row") as caught:
        health.takes(5, bad, ROWS)
    assert caught.value.code == ExitCode.DIVERGED


def test_skips_before_a_resume_count() -> None:
    health, _ = watched(in_a_row=2, on_nonfinite="skip", skip_limit=2)
    with pytest.raises(TfcliError):
        health.takes(5, [math.nan] * 4, ROWS)


def test_a_leap_is_warned_of_once_the_window_is_full() -> None:
    noise = np.random.default_rng(0).normal(2, 0.1, size=300)
    health, events = watched()
    for step in range(127):
        health.takes(step, [noise[step], 1, 1, 1], ROWS)
    health.takes(127, [9.0, 1, 1, 1], ROWS)  # the window is not full
    assert events == []
    health, events = watched()
    for step in range(300):
        health.takes(step, [noise[step], 1, 1, 1], ROWS)
    assert events == []
    health.takes(300, [2 + 0.1 * 7.5, 1, 1, 1], ROWS)
    (warning,) = events
    assert isinstance(warning, Warn)
    assert "step 300" in warning.text
    health.takes(301, [2 + 0.1 * 4, 1, 1, 1], ROWS)  # not so far off
    assert len(events) == 1
