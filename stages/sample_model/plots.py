"""The losses of a training as SVG line plots for the page of samples."""

from __future__ import annotations

from html import escape
from typing import Any


def plot(metrics: list[dict[str, Any]], name: str, caption: str) -> str:
    """An SVG line plot of a loss on training (thin) and held-out rows (thick) by step."""
    lines = {key: [(row["step"], row[key]) for row in metrics if key in row] for key in (name, f"heldout_{name}")}
    points = [point for line in lines.values() for point in line]
    if len(points) < 2:
        return ""
    width, height, margin = 460, 240, 40
    last = max(step for step, _ in points) or 1
    # The first values of an untrained model would squeeze the rest: the axis ends at the 95th percentile.
    values = sorted(value for _, value in points)
    low, high = (
        values[0],
        max(values[int(len(values) * 0.95)], lines[f"heldout_{name}"][0][1] if lines[f"heldout_{name}"] else 0),
    )
    span = (high - low) or 1.0

    def place(step: float, value: float) -> str:
        x = margin + (width - margin - 10) * step / last
        y = 10 + (height - margin - 10) * (1 - (min(value, high) - low) / span)
        return f"{x:.1f},{y:.1f}"

    drawn = ""
    for key, colour, thickness in ((name, "var(--a)", 1), (f"heldout_{name}", "var(--b)", 2.5)):
        path = " ".join(place(step, value) for step, value in lines[key])
        drawn += f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='{thickness}'/>"
    labels = (
        f"<text x='4' y='18'>{high:.3g}</text><text x='4' y='{height - margin}'>{low:.3g}</text>"
        f"<text x='{margin}' y='{height - 12}'>0</text>"
        f"<text x='{width - 10}' y='{height - 12}' text-anchor='end'>step {last}</text>"
    )
    final = lines[f"heldout_{name}"][-1][1] if lines[f"heldout_{name}"] else values[0]
    return (
        f"<figure><svg width='{width}' height='{height}' role='img' aria-label='{escape(caption)}'>{drawn}{labels}</svg>"
        f"<figcaption>{escape(caption)}: training (blue), held out (orange, ends at {final:.4g})</figcaption></figure>"
    )
