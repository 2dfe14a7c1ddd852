"""Speed and memory of a training between two rows of `timing.jsonl`. Volatile: never in a digest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from stages.core.device import matmul_peak
from stages.core.hardware import this_machine
from stages.core.memory import peak_bytes, reset_peak, resident_bytes
from stages.model.config import ModelConfig
from stages.model.transformer import ModelDims
from stages.train_model.batches import Batch
from stages.train_model.flops import Work, model_flops

_REMEASURE_SECONDS = 60.0  # between two measurements of a CPU's peak speed


@dataclass
class Meter:
    """Clocks and counts of this process between two rows of the log.

    `loading` and `excluded_time` are `with` blocks around what is no part of a step: waiting for batches (reported as a share),
    and measurements, previews and saves (excluded from speeds, included in the remaining time). Each of `devices` processes
    counts its own work: speeds are multiplied by `devices`, the other figures are those of this process.
    """

    model: ModelConfig
    dims: ModelDims
    device: torch.device
    precision: str
    devices: int = 1

    def __post_init__(self) -> None:
        self.peak = this_machine(str(self.device), self.precision).peak
        reset_peak()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.started_at = self._measured = time.perf_counter()
        self.steps = 0  # of this process
        self._clear()

    def _clear(self) -> None:
        self._tick = time.perf_counter()
        self._loading = self._excluded = 0.0
        self._work: Work | None = None
        self._steps = 0

    @contextmanager
    def loading(self) -> Iterator[None]:
        """A block that makes batches, or waits for them."""
        started = time.perf_counter()
        yield
        self._loading += time.perf_counter() - started

    @contextmanager
    def excluded_time(self) -> Iterator[None]:
        """A block that is no part of a step."""
        started = time.perf_counter()
        yield
        self._excluded += time.perf_counter() - started

    def remeasure_peak(self) -> None:
        """Measure a CPU's peak speed again: another program may have slowed the first measurement down."""
        if self.device.type == "cpu" and time.perf_counter() - self._measured > _REMEASURE_SECONDS:
            self._measured = time.perf_counter()
            self.peak = max(self.peak, matmul_peak(self.device, self.precision))

    def add(self, batches: list[Batch]) -> None:
        """Count a step over these micro-batches."""
        work = Work.of(batches)
        self._work = work if self._work is None else self._work + work
        self._steps += 1
        self.steps += 1

    def row(self, steps_left: int) -> dict[str, float]:
        """The figures since the last row.

        seconds: for each step. elements_per_second: without padding. places_per_second: with padding. mfu: share of the device's
        peak speed. loading_share: share of the time spent on batches. memory_bytes, peak_memory_bytes: now and at most.
        seconds_left: until the last step.
        """
        assert self._work is not None
        now = time.perf_counter()
        seconds = max(1e-9, now - self._tick - self._excluded)
        flops = model_flops(self.model, self.dims, self._work)
        on_device = self.device.type == "cuda"
        row = {
            "seconds": seconds / self._steps,
            "elements_per_second": self._work.elements * self.devices / seconds,
            "places_per_second": self._work.padded_elements * self.devices / seconds,
            "mfu": flops / seconds / self.peak,
            "loading_share": self._loading / seconds,
            "memory_bytes": torch.cuda.memory_allocated(self.device) if on_device else resident_bytes(),
            "peak_memory_bytes": torch.cuda.max_memory_allocated(self.device) if on_device else peak_bytes(),
            "seconds_left": steps_left * (now - self.started_at) / self.steps,
        }
        self._clear()
        return row


def fields(row: dict[str, float]) -> dict[str, str]:
    """The figures of a row as the progress line shows them; the remaining time is in every progress line."""
    padding = row["places_per_second"] / row["elements_per_second"] - 1
    return {
        "el/s": f"{row['elements_per_second']:,.0f}",
        "padding": f"{padding:.0%}",
        "MFU": f"{row['mfu']:.0%}",
        "data": f"{row['loading_share']:.0%}",
        "GB": f"{row['peak_memory_bytes'] / 1e9:.2f}",
    }
