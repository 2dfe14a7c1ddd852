"""Trackers: where the metrics of a training go in addition to the two JSONL files of a checkpoint (`monitor/metrics.py`).

A tracker is one frozen model, whose fields are its recipe options, and an entry of `Tracker`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from stages.artifacts.checkpoint import TENSORBOARD
from stages.core.config import Section
from stages.core.errors import ExitCode, TfcliError
from stages.core.files import disk_errors

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


class Open(Protocol):
    """A tracker of a running training."""

    def add(self, step: int, values: dict[str, float]) -> None:
        """Take the figures of a step, by name."""

    def flush(self) -> None:
        """Write all figures so far."""

    def close(self) -> None:
        """Flush, and free what is held."""


class TensorboardTracker(Section):
    """Curves for `tensorboard --logdir`, below `tensorboard/` in the checkpoint's folder (extra `tensorboard`)."""

    kind: Literal["tensorboard"] = "tensorboard"
    """Event files for TensorBoard; needs the extra `tensorboard`."""

    @property
    def folder(self) -> str:
        """Folder inside the checkpoint that it writes to, excluded from the digest."""
        return TENSORBOARD

    def require(self) -> None:
        """Raise TfcliError (ENVIRONMENT) where its extra is missing."""
        if find_spec("tensorboard") is None:
            raise TfcliError(
                "train.trackers: tensorboard is not installed",
                fix="pip install 'tfcli[tensorboard]'",
                code=ExitCode.ENVIRONMENT,
            )

    def open(self, checkpoint: Path, step: int) -> Open:
        """Start writing. step: from which the training resumes; what an earlier process wrote after it is dropped."""
        from torch.utils.tensorboard.writer import SummaryWriter

        folder = checkpoint / self.folder
        with disk_errors(folder):
            return _Board(SummaryWriter(str(folder), purge_step=step + 1 if step else None))


Tracker = TensorboardTracker


class _Board:
    def __init__(self, writer: SummaryWriter) -> None:
        self.writer = writer

    def add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            # TensorBoard groups by the text before "/": all held-out metrics are one group
            group, _, rest = name.partition("_")
            self.writer.add_scalar(f"heldout/{rest}" if group == "heldout" else f"train/{name}", value, step)

    def flush(self) -> None:
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
