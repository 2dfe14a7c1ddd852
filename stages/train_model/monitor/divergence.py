"""Divergence of a training: losses and gradients that are not finite, checked before the optimizer step, and loss spikes."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Report, Warn
from stages.train_model.config import TrainConfig

_WINDOW, _SIGMAS = 128, 6.0  # a spike is over 6 standard deviations above the mean of the last 128 steps (OLMo 2024)


class DivergenceMonitor:
    """Checks every step. in_a_row: number of steps skipped in a row up to now."""

    def __init__(self, train: TrainConfig, report: Report, in_a_row: int) -> None:
        self.train, self.report, self.in_a_row = train, report, in_a_row
        self._last: deque[float] = deque(maxlen=_WINDOW)

    def check_step(self, step: int, figures: list[float], rows: Any) -> bool:
        """Whether the optimizer may take step `step`; False: the step is skipped (train.on_nonfinite = "skip").

        Args:
            step: of the training, from 0.
            figures: the training loss, the text loss, the image loss and the gradient norm.
            rows: training rows to name in the message where a figure is not finite.

        Raises TfcliError (DIVERGED) on figures that are not finite, or on more than train.skip_limit skipped steps in a row.
        """
        loss, text, image, norm = figures
        if np.isfinite(figures).all():
            self.in_a_row = 0
            self._warn_of_spike(step, loss, f"{loss:.4g} (text {text:.4g}, image {image:.4g})")
            return True
        self.in_a_row += 1
        why = f"text loss {text:.4g}, image loss {image:.4g}, gradient norm {norm:.4g}; rows {rows.tolist()[:8]}"
        if self.train.on_nonfinite == "skip" and self.in_a_row <= self.train.skip_limit:
            self.report(Warn(f"step {step} is skipped: {why}"))
            return False
        fix = "lower train.learning_rate or raise train.warmup_steps; the last save is from before this step"
        what = f"training diverged at step {step}"
        if self.train.on_nonfinite == "stop":
            fix += ', from which --set train.on_nonfinite="skip" goes on without such steps'
        else:
            what += f", after {self.in_a_row - 1} skipped steps in a row"
        raise TfcliError(what, why=why, fix=fix, code=ExitCode.DIVERGED)

    def check_heldout(self, step: int, bad_rows: list[int]) -> TfcliError | None:
        """Judge the held-out rows whose loss is not finite. With train.on_nonfinite = "skip" this reports a warning, and the
        metrics have null; otherwise it returns an error (DIVERGED), which the caller raises after saving the state."""
        if not bad_rows:
            return None
        shown = f"{bad_rows[:8]}" + (f" and {len(bad_rows) - 8} more" if len(bad_rows) > 8 else "")
        what = f"the held-out loss is not finite at step {step}: rows {shown} of the held-out side"
        if self.train.on_nonfinite == "skip":
            self.report(Warn(f"{what}; it is left out of the metrics"))
            return None
        why = 'the state is saved; train.on_nonfinite = "skip" continues without that figure'
        fix = "look at these rows ('tfcli inspect WORK/sequences --row N --side heldout'), or lower train.learning_rate"
        return TfcliError(what, why=why, fix=fix, code=ExitCode.DIVERGED)

    def _warn_of_spike(self, step: int, loss: float, loss_text: str) -> None:
        if len(self._last) == _WINDOW:
            mean = math.fsum(self._last) / _WINDOW
            std = math.sqrt(math.fsum((value - mean) ** 2 for value in self._last) / _WINDOW)
            if loss > mean + _SIGMAS * std:
                sigmas = (loss - mean) / std if std else math.inf
                distance = f"{sigmas:.0f} standard deviations above the mean of the last {_WINDOW} steps"
                self.report(Warn(f"loss spike at step {step}: {loss_text}, {distance}"))
        self._last.append(loss)
