"""Overfitting: a warning where a held-out loss rises, and with train.keep_best the weights of its lowest measurement.

`saves/best/step-000250.safetensors` are the weights that sampling would use at that step, complete once the JSON with the same
name exists. They are written before the save of their step and kept as long as a save needs them, so that a training that
resumes from any of its saves ends like one without a stop.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.artifacts.checkpoint import BEST, read_tensors, write_tensors
from stages.artifacts.form import matches
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Event, Note, Warn
from stages.core.files import read_record, sync_folder, write_record
from stages.core.hashing import hash_file
from stages.train_model.checkpointing import TrainState, complete_saves
from stages.train_model.config import TrainConfig
from stages.train_model.distributed.ranks import copy_into, full_tensor, load_full_tensors
from stages.train_model.monitor.metrics import MetricsLog

Points = Sequence[tuple[int, float]]  # (step, loss) in the order of the steps
FIGURES = {"heldout_text_loss": "held-out text loss", "heldout_image_loss": "held-out image loss"}
RISE, SHARE, MEASUREMENTS = 0.10, 0.10, 3


def rises(points: Points, steps: int) -> bool:
    """Whether a held-out loss rises: its last value is more than RISE (10 %) above its lowest, which is at least SHARE (10 %)
    of the run's `steps` and MEASUREMENTS (3) measurements ago. Noise of single measurements fulfils neither."""
    if not points:
        return False
    step, value = points[-1]
    index, (lowest_step, lowest) = min(enumerate(points), key=lambda one: one[1][1])
    late = step - lowest_step >= SHARE * steps and len(points) - 1 - index >= MEASUREMENTS
    return late and value - lowest > RISE * abs(lowest)


def metric_points(metrics: Iterable[Mapping[str, Any]], figure: str) -> Points:
    """(step, value) of a metric, without values that are not finite (null in the log)."""
    found = [(row["step"], row[figure]) for row in metrics if row.get(figure) is not None]
    return [(step, value) for step, value in found if math.isfinite(value)]


def best_step(points: Points, until: float = math.inf) -> int | None:
    """The first step with the lowest value, of the steps up to `until`; None where there is no value."""
    known = [(value, step) for step, value in points if step <= until]
    return min(known)[1] if known else None


def epochs(step: int, train: TrainConfig, num_rows: int) -> str:
    """Number of passes over the training rows after `step` steps, as text."""
    return f"{step * train.batch_rows / max(1, num_rows):.2f}"


class OverfittingMonitor:
    """Checks the held-out losses of the log after each measurement. All ranks call its methods together."""

    def __init__(self, train: TrainConfig, log: MetricsLog, saves: Path, report: Callable[[Event], None]) -> None:
        self.train, self.log, self.saves, self.report = train, log, saves, report
        self.folder = saves / BEST

    def check(self, state: TrainState) -> None:
        """Warn once where a loss rises, and keep the weights where the metric of train.keep_best is lowest.

        Raises TfcliError (USAGE) where the held-out rows do not have that metric.
        """
        figure = self.train.keep_best
        for name, words in FIGURES.items():
            points = metric_points(self.log.metrics, name)
            if rises(points, self.train.steps) and not any(
                rises(points[:end], self.train.steps) for end in range(len(points))
            ):
                self._warn(name, words, points)
        if not figure:
            return
        if not any(figure in row for row in self.log.metrics):
            why = f"the held-out rows have no {'pictures' if 'image' in figure else 'text'}"
            what = f"train.keep_best = {json.dumps(figure)}, which is never measured"
            raise TfcliError(what, why=why, fix="set it to the other figure, or to an empty text", code=ExitCode.USAGE)
        if state.ranks.all_reduce_max(best_step(metric_points(self.log.metrics, figure)) == state.step):
            self._keep(state)

    def require_best(self, step: int) -> None:
        """Raise TfcliError (ARTIFACT) where the best weights up to `step`, from which a training resumes, cannot be used."""
        if self.train.keep_best:
            best = best_step(metric_points(self.log.metrics, self.train.keep_best), step)
            if best is not None:
                self._check(best)

    def load_best(self, state: TrainState) -> None:
        """Replace the weights for sampling with the best ones, where train.keep_best is set."""
        best = self._best()
        if best is None:
            return
        points = dict(metric_points(self.log.metrics, self.train.keep_best))
        words = f"{FIGURES[self.train.keep_best]} {points[best]:.4g}"
        self.report(Note(f"train.keep_best: the weights for sampling are those of step {best:,}, {words}"))
        if best == state.step:
            return
        self._check(best)
        tensors = read_tensors(self._file(best))
        if not state.ema:
            load_full_tensors(state.model, tensors)
        for name in state.ema:
            copy_into(state.ema[name], tensors[name])

    def stats(self) -> dict[str, Any]:
        """Losses of the sealed weights and, with train.keep_best, the step of these weights, for the manifest."""
        losses, best = self.log.last(), self._best()
        if best is None:
            return {"losses": losses}
        for row in self.log.metrics:
            if row["step"] == best:
                losses |= {name: value for name, value in row.items() if name.startswith("heldout_")}
        return {"losses": losses, "best": {"figure": self.train.keep_best, "step": best}}

    def _best(self) -> int | None:
        figure = self.train.keep_best
        return best_step(metric_points(self.log.metrics, figure)) if figure else None

    def _keep(self, state: TrainState) -> None:
        weights = state.ema or {name: weight.detach() for name, weight in state.model.named_parameters()}
        tensors = {name: full_tensor(tensor).cpu() for name, tensor in weights.items()}  # all ranks gather
        if state.ranks.main:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self._file(state.step)
            file.with_suffix(".json").unlink(missing_ok=True)
            write_tensors(file, tensors)
            write_record(file.with_suffix(".json"), {"step": state.step, "file_sha256": hash_file(file)})
            sync_folder(self.folder)
            self._drop_unneeded(state.step)
        state.ranks.barrier()

    def _drop_unneeded(self, step: int) -> None:
        """Delete kept weights that are not the best up to now or up to one of the saves."""
        points = metric_points(self.log.metrics, self.train.keep_best)
        ends = [step, *(int(save.name.removeprefix("step-")) for save in complete_saves(self.saves))]
        needed = {self._file(best).stem for end in ends if (best := best_step(points, end)) is not None}
        for path in self.folder.iterdir():
            if path.stem not in needed and matches(path.name, ("step-#.safetensors", "step-#.json")):
                path.unlink()

    def _file(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"

    def _check(self, step: int) -> None:
        file = self._file(step)
        try:
            record = read_record(file.with_suffix(".json"))
            if record["step"] == step and record["file_sha256"] == hash_file(file):
                return
            why = "its sha256 or its step differs"
        except (OSError, TfcliError, KeyError) as error:
            why = f"{type(error).__name__}: {error}"
        fix = f"restore it, or delete the saves from step {step} on: the training resumes from an earlier one"
        raise TfcliError(f"the best weights {file} cannot be used", why=why, fix=fix, code=ExitCode.ARTIFACT)

    def _warn(self, name: str, words: str, points: Points) -> None:
        lowest_step, lowest = min(points, key=lambda point: point[1])
        step, value = points[-1]
        advice = f'more data, fewer steps (train.steps), or train.keep_best = "{name}"'
        if self.train.keep_best == name:
            advice = "train.keep_best keeps the lowest"
        self.report(
            Warn(
                f"the {words} rises: {value:.4g} at step {step:,}, {lowest:.4g} at step {lowest_step:,}; the model memorises its "
                f"training rows (overfitting): {advice}"
            )
        )
