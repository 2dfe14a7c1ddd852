"""Devices: their memory and their peak speed, from data sheets or measured."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from stages.core.device import matmul_peak, resolve_device
from stages.core.errors import ExitCode, TfcliError
from stages.core.machine_report import processor

# Data sheets: memory in GB, TFLOP/s of dense bf16 and of float32 (without TF32, which torch does not take by itself).
GPUS = {
    "A100-40": (40, 312, 19.5),
    "A100": (80, 312, 19.5),
    "H100": (80, 989, 67),
    "H200": (141, 989, 67),
    "B200": (180, 2250, 75),
    "L4": (24, 121, 30),
    "L40S": (48, 362, 91),
    "RTX4090": (24, 165, 82),
}


@dataclass(frozen=True)
class Machine:
    """Devices of one kind.

    Args:
        name: "cpu", or that of the GPU.
        count: number of devices.
        memory: bytes of each.
        peak: floating-point operations per second of each, at most.
        measured: whether `peak` was measured; otherwise it is from a data sheet.
    """

    name: str
    count: int
    memory: int
    peak: float
    measured: bool


def machine_of(text: str, precision: str) -> Machine:
    """The GPUs of an option such as "8xH100" or "H100". Raises TfcliError (USAGE) for a GPU without a data sheet here."""
    found = re.fullmatch(r"(?:(\d{1,6})x)?([A-Za-z0-9-]+)", text)
    name = found[2].upper() if found else ""
    if not found or name not in GPUS or found[1] == "0":
        known = ", ".join(GPUS)
        raise TfcliError(f"--gpus {text}", why=f"known are {known}", fix="such as --gpus 8xH100", code=ExitCode.USAGE)
    memory, half, single = GPUS[name]
    return Machine(name, int(found[1] or 1), memory * 10**9, (half if precision == "bf16" else single) * 1e12, False)


def this_machine(device_name: str, precision: str) -> Machine:
    """One device of this machine. The peak speed of a GPU is from its data sheet where there is one, otherwise it is measured."""
    device = resolve_device(device_name)
    if device.type == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Machine("cpu", 1, memory, matmul_peak(device, precision), True)
    properties = torch.cuda.get_device_properties(device)
    known = sheet_of(properties.name)
    if known is None:
        return Machine(properties.name, 1, properties.total_memory, matmul_peak(device, precision), True)
    return replace(machine_of(known, precision), name=properties.name, memory=properties.total_memory)


def usable_cores() -> int:
    """Cores of this machine that this process may use and that torch has a thread for (OMP_NUM_THREADS), at least one."""
    return max(1, min(processor().may_use, torch.get_num_threads()))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside the block torch uses this number of threads on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def sheet_of(device_name: str) -> str | None:
    """The data sheet of a device by its CUDA name, such as H100 for "NVIDIA H100 80GB HBM3"; None without one."""
    words = device_name.upper().replace("RTX ", "RTX").split("-")
    found = {word for group in words for word in group.split()} & GPUS.keys()
    return found.pop() if found else None
