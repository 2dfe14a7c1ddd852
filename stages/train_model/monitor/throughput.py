"""What a training does with its time and its memory, from one line of the log to the next. Volatile: never in a digest."""

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

_AGAIN = 60.0  # seconds between two measurements of a CPU's best


@dataclass
class Meter:
    """Clocks and counts of this process, between two lines of the log.

    `loading` and `aside` are blocks around what is not the step: waiting for batches (counted as a share), and
    measurements, previews and saves (left out of speeds, not of what is left). Of `devices` processes this one counts its own
    share of the work: speeds are that many times its own, the rest is its own.
    """

    model: ModelConfig
    facts: ModelDims
    device: torch.device
    precision: str
    devices: int = 1

    def __post_init__(self) -> None:
        self.peak = this_machine(str(self.device), self.precision).peak
        reset_peak()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.begun = self._measured = time.perf_counter()
        self.steps = 0  # of this process
        self._clear()

    def _clear(self) -> None:
        self._tick = time.perf_counter()
        self._loading = self._aside = 0.0
        self._work: Work | None = None
        self._steps = 0

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Around what makes batches, or waits for them."""
        started = time.perf_counter()
        yield
        self._loading += time.perf_counter() - started

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around what is no part of a step."""
        started = time.perf_counter()
        yield
        self._aside += time.perf_counter() - started

    def again(self) -> None:
        """Measure a CPU's best once more: beside another program the first time may have been a bad one."""
        if self.device.type == "cpu" and time.perf_counter() - self._measured > _AGAIN:
            self._measured = time.perf_counter()
            self.peak = max(self.peak, matmul_peak(self.device, self.precision))

    def add(self, batches: list[Batch]) -> None:
        """A step was taken over these."""
        work = Work.of(batches)
        self._work = work if self._work is None else self._work + work
        self._steps += 1
        self.steps += 1

    def row(self, left: int) -> dict[str, float]:
        """The figures since the last row. left: steps to the end.

        seconds a step, content elements a second, the same with padding, mfu (share of the device's best speed), share of the
        time that batches took, bytes now and at most, seconds to the end.
        """
        assert self._work is not None
        now = time.perf_counter()
        seconds = max(1e-9, now - self._tick - self._aside)
        flops = model_flops(self.model, self.facts, self._work)
        on_device = self.device.type == "cuda"
        row = {
            "seconds": seconds / self._steps,
            "elements_per_second": self._work.elements * self.devices / seconds,
            "places_per_second": self._work.places * self.devices / seconds,
            "mfu": flops / seconds / self.peak,
            "loading_share": self._loading / seconds,
            "memory_bytes": torch.cuda.memory_allocated(self.device) if on_device else resident_bytes(),
            "peak_memory_bytes": torch.cuda.max_memory_allocated(self.device) if on_device else peak_bytes(),
            "seconds_left": left * (now - self.begun) / self.steps,
        }
        self._clear()
        return row


def fields(row: dict[str, float]) -> dict[str, str]:
    """The figures of a row as the progress line shows them; what is left is shown by every progress line."""
    padding = row["places_per_second"] / row["elements_per_second"] - 1
    return {
        "el/s": f"{row['elements_per_second']:,.0f}",
        "padding": f"{padding:.0%}",
        "MFU": f"{row['mfu']:.0%}",
        "data": f"{row['loading_share']:.0%}",
        "GB": f"{row['peak_memory_bytes'] / 1e9:.2f}",
    }
