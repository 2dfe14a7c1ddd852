"""The figures of speed and memory, and the data sheets behind them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from stages.core.hardware import GPUS, sheet_of
from stages.core.memory import peak_bytes, reset_peak, resident_bytes
from stages.estimate_training.memory import stand_in
from stages.model.config import ModelConfig
from stages.model.transformer import ModelDims
from stages.train_model.flops import Work, model_flops
from stages.train_model.monitor.throughput import Meter, fields

DIMS = ModelDims(200, 4, 2)
MODEL = ModelConfig(width=64, layers=2, heads=2)


def test_figures_of_a_row_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("stages.train_model.monitor.throughput.time", SimpleNamespace(perf_counter=lambda: now))
    meter = Meter(MODEL, DIMS, torch.device("cpu"), "fp32")
    batch = stand_in(DIMS, (8, 12), 512, 1)
    for _ in range(2):
        with meter.excluded_time():
            now += 0.2
        with meter.loading():
            now += 0.03
        now += 0.05
        meter.add([batch, batch])
    row = meter.row(steps_left=10)
    assert row["seconds"] == pytest.approx(0.08)  # a step, without excluded time
    assert row["loading_share"] == pytest.approx(3 / 8)
    assert row["elements_per_second"] * row["seconds"] == pytest.approx(2 * batch.num_elements)
    assert row["places_per_second"] * row["seconds"] == pytest.approx(2 * len(batch.inputs.positions_N))
    flops = model_flops(MODEL, DIMS, Work.of([batch, batch]))
    assert row["mfu"] * meter.peak * row["seconds"] == pytest.approx(flops)
    assert row["seconds_left"] == pytest.approx(10 * 0.28)  # excluded time is included
    assert set(fields(row)) == {"el/s", "padding", "MFU", "data", "GB"}
    meter.add([batch])
    assert meter.row(steps_left=0)["loading_share"] == 0


def test_the_peak_of_memory_is_reset() -> None:
    reset_peak()
    block = torch.ones(30_000_000)
    assert peak_bytes() >= resident_bytes() > block.nbytes
    high = peak_bytes()
    del block
    reset_peak()
    assert peak_bytes() < high


@pytest.mark.parametrize(
    ("name", "sheet"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        ("Tesla V100-SXM2-16GB", None),
        ("NVIDIA GeForce RTX 3090", None),
    ],
)
def test_data_sheets_are_found_by_the_name_of_the_device(name: str, sheet: str | None) -> None:
    assert sheet_of(name) == sheet
    assert sheet is None or sheet in GPUS
