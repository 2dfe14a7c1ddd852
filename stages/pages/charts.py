"""Curves as inline SVG for static pages: the one plotter. No script, no fetched font; colours are the variables --c0, --c1, ...
of the shell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

Point = tuple[float, float]
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 480, 230, 52, 12, 10, 24
_MOST = 400  # points of a drawn line: more is finer than the page


@dataclass(frozen=True)
class Line:
    """One curve. colour: a number from 0. raw: noisy single values, drawn faint behind their own running mean."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    raw: bool = False


def chart(
    title: str, lines: Sequence[Line], *, logarithmic: bool = False, percent: bool = False, from_zero: bool = False
) -> Markup:
    """A figure with its key, which names the last value of each line; empty where no line has two points.

    First values and spikes that would squeeze the rest are clipped at the edge of the axis. logarithmic: values above 0 only.
    percent: values are shares. from_zero: where the axis begins.
    """
    drawn = [Line(one.name, _usable(one.points, logarithmic), one.colour, one.raw) for one in lines]
    drawn = [line for line in drawn if len(line.points) > 1]
    if not drawn:
        return Markup()
    last = max(step for line in drawn for step, _ in line.points)
    low, high = _range([line.points for line in drawn], last, logarithmic)
    low = 0.0 if from_zero else low

    def position(point: Point) -> str:
        step, value = point
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / (last or 1)
        share = (_scaled(value, logarithmic) - low) / (high - low)
        return f"{x:.1f},{_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - min(1.0, max(0.0, share))):.1f}"

    def shown(points: Sequence[Point], colour: int, style: str) -> str:
        path = " ".join(position(point) for point in thinned(points))
        return f"<polyline points='{path}' fill='none' stroke='var(--c{colour})' {style}/>"

    body = "".join(_grid(low, high, last, logarithmic, percent))
    key = ""
    for line in drawn:
        if line.raw:
            body += shown(line.points, line.colour, "stroke-width='1' opacity='.3'")
        body += shown(smoothed(line.points) if line.raw else line.points, line.colour, "stroke-width='1.8'")
        value = (smoothed(line.points) if line.raw else line.points)[-1][1]
        key += f"<i style='--own: var(--c{line.colour})'>{escape(line.name)} {_text(value, percent)}</i>"
    return Markup(
        f"<figure><figcaption><b>{escape(title)}</b>{key}</figcaption>"
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{escape(title)}'>{body}</svg></figure>"
    )


def loss_charts(metrics: Iterable[Mapping[str, Any]]) -> list[Markup]:
    """The figures of the text loss and of the image loss, each of training and held-out rows. metrics: rows of metrics.jsonl."""
    rows = list(metrics)

    def line(name: str, key: str, colour: int, raw: bool) -> Line:
        return Line(name, [(row["step"], row[key]) for row in rows if row.get(key) is not None], colour, raw)

    return [
        chart(
            f"{kind.capitalize()} loss, {unit}",
            [line("training", f"{kind}_loss", 0, True), line("held out", f"heldout_{kind}_loss", 1, False)],
        )
        for kind, unit in (("text", "nats per token"), ("image", "squared error"))
    ]


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most _MOST points: the means of as many spans, and the last point as it is."""
    if len(points) <= _MOST:
        return list(points)
    made = []
    for number in range(_MOST - 1):
        part = points[number * (len(points) - 1) // (_MOST - 1) : (number + 1) * (len(points) - 1) // (_MOST - 1)]
        made.append((math.fsum(x for x, _ in part) / len(part), math.fsum(y for _, y in part) / len(part)))
    return [*made, points[-1]]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """A running mean over some twentieth of the points before each."""
    window = max(1, len(points) // 20)
    sums = [0.0]
    for _, value in points:
        sums.append(sums[-1] + value)
    return [
        (step, (sums[index + 1] - sums[max(0, index + 1 - window)]) / min(window, index + 1))
        for index, (step, _) in enumerate(points)
    ]


def _usable(points: Sequence[Point], logarithmic: bool) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not logarithmic)]


def _scaled(value: float, logarithmic: bool) -> float:
    return math.log10(value) if logarithmic else value


def _range(curves: Sequence[Sequence[Point]], last: float, logarithmic: bool) -> tuple[float, float]:
    """Of the axis: all values, but of the first twentieth and of single leaps only what lies among the others."""
    later = sorted(y for points in curves for x, y in points if x >= last / 20)
    values = later or sorted(y for points in curves for _, y in points)
    low, high = (_scaled(value, logarithmic) for value in (values[0], values[int(len(values) * 0.99)]))
    room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def _grid(low: float, high: float, last: float, logarithmic: bool, percent: bool) -> list[str]:
    parts = []
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in ticks(low, high, logarithmic):
        y = _TOP + (bottom - _TOP) * (1 - (_scaled(value, logarithmic) - low) / (high - low))
        parts.append(f"<line x1='{_LEFT}' x2='{right}' y1='{y:.1f}' y2='{y:.1f}' stroke='var(--line)'/>")
        parts.append(f"<text x='{_LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{_text(value, percent)}</text>")
    for step in ticks(0, last, False):
        x = _LEFT + (right - _LEFT) * step / (last or 1)
        anchor = "middle" if x < right - 14 else "end"
        parts.append(f"<text x='{x:.1f}' y='{_HEIGHT - 8}' text-anchor='{anchor}'>{step:,.0f}</text>")
    return parts


def ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round numbers between low and high, some five of them; of a logarithmic axis, whose ends are exponents, by the
    leading digit."""
    if logarithmic:
        exponents = range(math.floor(low), math.ceil(high) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
            made = [digit * 10.0**exponent for exponent in exponents for digit in digits]
            found = [value for value in made if low <= math.log10(value) <= high]
            if len(found) > 2:
                return found[:: max(1, len(found) // 5)]
        return ticks(10**low, 10**high, False)
    rough = (high - low) / 5 or 1.0
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _text(value: float, percent: bool) -> str:
    if percent:
        return f"{100 * value:.3g} %"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
