"""The logs of a training: `metrics.jsonl` (reproducible, in the digest), `timing.jsonl` (volatile), and the recipe's trackers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from stages.artifacts.checkpoint import METRICS, TIMING, metric_rows
from stages.core.files import read_jsonl, write_jsonl
from stages.train_model.trackers import Tracker

SKIPPED = "skipped"  # the metric of a step that the optimizer did not take


class MetricsLog:
    """The logs in `folder`, truncated to `step`, from which the training resumes. metrics, timing: rows with their `step`.

    The files are completely rewritten at each flush, so that they never hold steps that the weights have not taken.
    """

    def __init__(self, folder: Path, trackers: tuple[Tracker, ...], step: int, saved: Path | None = None) -> None:
        """saved: the folder of the state that the training resumes from; its own log is used, which was checked with it."""
        self.folder = folder
        own = saved if saved is not None and (saved / METRICS).exists() else folder
        self.metrics = _rows_until(own / METRICS, step)
        # no sum covers this file before the seal: rows of something else are left out of it
        self.timing = [row for row in _rows_until(folder / TIMING, step) if row.get("seconds") is not None]
        self.trackers = [tracker.open(folder, step) for tracker in trackers]

    def add_metrics(self, step: int, values: dict[str, float], prefix: str = "") -> None:
        """Append reproducible metrics; a value that is not finite becomes null."""
        figures = {name: value if math.isfinite(value) else None for name, value in values.items()}
        row = {"step": step, **{f"{prefix}{name}": value for name, value in figures.items()}}
        # a resumed run measures again at the step of its save, and with another number of ranks to another rounding
        if any(old["step"] == step and old.keys() == row.keys() for old in self.metrics[-3:]):
            return
        self.metrics.append(row)
        self._track(row)

    def add_timing(self, step: int, values: dict[str, float]) -> None:
        """Append measurements of this machine, which another run does not repeat."""
        row = {"step": step, **values}
        self.timing.append(row)
        self._track(row)

    def _track(self, row: dict[str, Any]) -> None:
        values = {name: value for name, value in row.items() if name != "step" and value is not None}
        for tracker in self.trackers:
            tracker.add(row["step"], values)

    def flush(self) -> None:
        """Write all rows."""
        write_jsonl(self.folder / METRICS, self.metrics)
        write_jsonl(self.folder / TIMING, self.timing)
        for tracker in self.trackers:
            tracker.flush()

    def close(self) -> None:
        """Flush, and close the trackers."""
        self.flush()
        for tracker in self.trackers:
            tracker.close()

    def last(self) -> dict[str, float]:
        """The newest value of every metric."""
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
