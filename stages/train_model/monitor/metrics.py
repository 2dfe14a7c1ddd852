"""The logs of a training: `metrics.jsonl` (exact, in the digest), `timing.jsonl` (volatile), and the recipe's trackers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from stages.artifacts.checkpoint import METRICS, TIMING, metric_rows
from stages.core.files import read_jsonl, write_jsonl
from stages.train_model.trackers import Tracker

SKIPPED = "skipped"  # the figure of a step that the optimizer did not take


class Journal:
    """The logs below `folder`, cut to `step`, where the training goes on. metrics, timing: rows with their `step`.

    The files are rewritten whole at each flush, so that they never hold steps that the weights do not.
    """

    def __init__(self, folder: Path, trackers: tuple[Tracker, ...], step: int, saved: Path | None = None) -> None:
        """saved: the state that the training goes on from; it has its own log, which was checked with it."""
        self.folder = folder
        own = saved if saved is not None and (saved / METRICS).exists() else folder
        self.metrics = _rows_until(own / METRICS, step)
        self.timing = _rows_until(folder / TIMING, step)
        self.trackers = [tracker.open(folder, step) for tracker in trackers]

    def add_metrics(self, step: int, values: dict[str, float], prefix: str = "") -> None:
        """Figures that the same training gives again to the last digit; null for one that is not finite."""
        figures = {name: value if math.isfinite(value) else None for name, value in values.items()}
        row = {"step": step, **{f"{prefix}{name}": value for name, value in figures.items()}}
        # a resumed run measures the step it was saved at once more, and to another rounding with other processes
        if any(old["step"] == step and old.keys() == row.keys() for old in self.metrics[-3:]):
            return
        self.metrics.append(row)
        self._track(row)

    def add_timing(self, step: int, values: dict[str, float]) -> None:
        """Figures of this machine at this time."""
        row = {"step": step, **values}
        self.timing.append(row)
        self._track(row)

    def _track(self, row: dict[str, Any]) -> None:
        values = {name: value for name, value in row.items() if name != "step" and value is not None}
        for tracker in self.trackers:
            tracker.add(row["step"], values)

    def flush(self) -> None:
        """Write all that is known."""
        write_jsonl(self.folder / METRICS, self.metrics)
        write_jsonl(self.folder / TIMING, self.timing)
        for tracker in self.trackers:
            tracker.flush()

    def close(self) -> None:
        """Flush, and let the trackers end their files."""
        self.flush()
        for tracker in self.trackers:
            tracker.close()

    def last(self) -> dict[str, float]:
        """The newest value of every figure of `metrics`."""
        newest: dict[str, float] = {}
        for row in self.metrics:
            newest.update(
                {name: value for name, value in row.items() if value is not None} if SKIPPED not in row else {}
            )
        return newest

    def skipped_in_a_row(self, step: int) -> int:
        """How many steps right before `step` were skipped."""
        skipped = {row["step"] for row in self.metrics if SKIPPED in row}
        count = 0
        while step - count in skipped:
            count += 1
        return count


def _rows_until(path: Path, step: int) -> list[dict[str, Any]]:
    return [row for row in metric_rows(read_jsonl(path), path) if row["step"] <= step] if path.exists() else []
