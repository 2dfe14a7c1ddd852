"""Devices and autocast. torch is imported inside functions, so that command-line code can import this module quickly."""

from __future__ import annotations

import re
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from stages.core.errors import ExitCode, TfcliError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> torch.device:
    """ "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:N". Raises TfcliError (ENVIRONMENT) if it is not there."""
    import torch

    check_device(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        why = f"this torch sees {torch.cuda.device_count()} CUDA devices"
        raise TfcliError(f"--device {name}: no CUDA device", why=why, fix="use --device cpu", code=ExitCode.ENVIRONMENT)
    return device


def check_device(name: str) -> None:
    """Raise TfcliError (USAGE) for a name that is no device on any machine; checked before work that does not use the device."""
    if not re.fullmatch("auto|cpu|cuda(:(0|[1-9][0-9]?))?", name):
        fix = "--device auto, cpu, cuda or cuda:0"
        raise TfcliError(f"--device {name}: no such device", fix=fix, code=ExitCode.USAGE)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bf16 autocast over float32 weights where precision is "bf16"; no autocast for "fp32"."""
    import torch

    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def matmul_peak(device: torch.device, precision: str) -> float:
    """Floating-point operations per second of a large matrix product, the best within half a second: the peak speed that model
    FLOPs utilisation is relative to."""
    import torch

    side = 1536 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    first, second = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best, first_start = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - first_start < 0.5:
        started = time.perf_counter()
        torch.mm(first, second)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best
