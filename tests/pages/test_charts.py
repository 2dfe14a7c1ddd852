"""Curves: axes with round numbers, no values lost in the middle, nothing but SVG."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.pages.charts import Line, chart, smoothed, thinned, ticks

FINITE = st.floats(-1e6, 1e6)


@given(FINITE, st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_inside(low: float, room: float) -> None:
    found = ticks(low, low + room, False)
    assert 2 <= len(found) <= 12
    slack = 1e-6 * room + 1e-12 * abs(low)  # the last for what float64 rounds
    assert all(low - slack <= value <= low + room + slack for value in found)


@given(st.floats(-8, 8), st.floats(0.05, 10))
def test_ticks_of_a_logarithmic_axis(low: float, room: float) -> None:
    found = ticks(low, low + room, True)
    assert 1 <= len(found) <= 22
    assert all(low - 0.01 <= math.log10(value) <= low + room + 0.01 for value in found)


def test_long_curves_are_thinned_to_means_and_keep_their_end() -> None:
    points = [(float(step), float(step % 2)) for step in range(10_001)]
    made = thinned(points)
    assert len(made) == 400
    assert made[-1] == points[-1]
    assert all(0.3 < value < 0.7 for _, value in made[:-1])
    assert thinned(points[:400]) == points[:400]


def test_the_running_mean_ends_where_the_values_do() -> None:
    points = [(float(step), 1.0 if step < 500 else 3.0) for step in range(1000)]
    made = smoothed(points)
    assert made[0] == (0.0, 1.0)
    assert made[-1] == (999.0, pytest.approx(3.0))
    assert 1 < made[505][1] < 3
    assert smoothed(points[:3]) == points[:3]


def test_a_chart_draws_inside_its_frame_and_names_last_values() -> None:
    noisy = [(float(step), 1000.0 if step == 0 else 2 + step % 3) for step in range(200)]
    made = chart(
        "A <b>", [Line("x", noisy, raw=True), Line("y", [(0, 1.0), (100, 0.25)], 1), Line("alone", [(5, 9.0)], 2)]
    )
    assert "A &lt;b&gt;" in made
    assert "y 0.25" in made
    assert "alone" not in made  # a point is no line
    coordinates = [float(number) for path in re.findall(r"points='([^']*)'", made) for number in re.split("[ ,]", path)]
    assert len(coordinates) > 400
    assert all(0 <= number <= 480 for number in coordinates)
    heights = [float(pair.split(",")[1]) for path in re.findall(r"points='([^']*)'", made) for pair in path.split()]
    assert max(heights) - min(heights) > 150  # the first value does not squeeze the rest
    spread = [float(pair.split(",")[1]) for pair in re.findall(r"points='([^']*)'", made)[0].split()][10:]
    assert max(spread) - min(spread) > 50


def test_nothing_to_draw_is_nothing() -> None:
    assert chart("t", []) == ""
    assert chart("t", [Line("x", [(0, math.nan), (1, math.nan)])]) == ""
    assert chart("t", [Line("x", [(0, -1.0), (1, 0.0)])], logarithmic=True) == ""
    assert "<svg" in chart("t", [Line("x", [(0, 0.0), (1, 0.0)])], from_zero=True)
    assert "<svg" in chart("t", [Line("x", [(5, 2.0), (5, 2.0)])], logarithmic=True)
