"""Each hazard is found in a machine that has it, with the word that fixes it, and not in one that has not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stages.core.machine_report import Gpu, MachineReport, Memory, Processor, Space, Torch
from stages.doctor.hazards import hazards

GIB = 2**30
GPU = Gpu("NVIDIA H100 80GB HBM3", 80 * GIB, 79 * GIB, "9.0", True)
GOOD = MachineReport(
    tfcli="0.1.0",
    commit="0123456789ab",
    python="3.11.7 (CPython)",
    system="Linux 6.1",
    packages={"torch": "2.10"},
    missing=(),
    torch=Torch("2.10", "", "12.8", 8, True, (GPU, GPU)),
    processor=Processor("Xeon", "x86_64", 16, 8, None, ("avx2",), False, False),
    driver="550.54.14",
    memory=Memory(64 * GIB, 60 * GIB, 0, None),
    shared_memory=Space(8 * GIB, 8 * GIB, 0, "tmpfs", True),
    limits={"open files": 65536, "processes": None, "file size": None, "address space": None},
    work=Space(900 * GIB, 800 * GIB, 10**6, "ext4", True),
    environment={},
)
NO_GPU = replace(GOOD.torch, gpus=())


def of(**environment: str) -> dict[str, Any]:
    return {"environment": environment}


def test_a_good_machine_has_none() -> None:
    assert hazards(GOOD) == ()
    assert hazards(replace(GOOD, torch=NO_GPU, driver=None)) == ()
    assert hazards(replace(GOOD, **of(OMP_NUM_THREADS="8", CUDA_VISIBLE_DEVICES="0", TFCLI_DEVICE="cpu"))) == ()
    assert hazards(replace(GOOD, shared_memory=Space(GIB // 16, 0, 0, "tmpfs", True), torch=NO_GPU, driver=None)) == ()


@pytest.mark.parametrize(
    ("change", "code", "gravity", "what", "fix"),
    [
        ({"missing": ("zarr",)}, "MISSING_PACKAGE", "stops", "zarr is not installed", "pip install zarr"),
        ({"torch": Torch("2.10", "ImportError: x")}, "TORCH_BROKEN", "stops", "ImportError: x", "install torch"),
        (of(PYTHONOPTIMIZE="1"), "PYTHON_OPTIMIZED", "problem", "leaves out the checks", "unset PYTHONOPTIMIZE"),
        ({"torch": Torch("2.10+cpu")}, "TORCH_WITHOUT_CUDA", "problem", "without CUDA", "install a CUDA build"),
        ({"torch": NO_GPU, **of(CUDA_VISIBLE_DEVICES="")}, "GPUS_HIDDEN", "problem", "hides every GPU", "unset"),
        ({"torch": NO_GPU, **of(CUDA_VISIBLE_DEVICES="-1")}, "GPUS_HIDDEN", "problem", "hides every GPU", "unset"),
        ({"torch": NO_GPU}, "NO_GPU_FOUND", "problem", "for CUDA 12.8 finds no GPU", "nvidia-smi"),
        ({"processor": replace(GOOD.processor, quota=2.0)}, "THREADS_NOT_SET", "problem", "8 threads", "=2"),
        (of(OMP_NUM_THREADS="set"), "THREADS_ODD", "problem", "is no number", "OMP_NUM_THREADS=8"),
        (of(OMP_NUM_THREADS="0"), "THREADS_ODD", "problem", "is no number", "OMP_NUM_THREADS=8"),
        (of(OMP_NUM_THREADS="-1"), "THREADS_ODD", "problem", "is no number", "OMP_NUM_THREADS=8"),
        (of(OMP_NUM_THREADS="9,2"), "THREADS_TOO_MANY", "problem", "9 is more than the 8", "OMP_NUM_THREADS=8"),
        (of(OMP_NUM_THREADS="1"), "THREADS_FEW", "remark", "uses 1 of 8", "OMP_NUM_THREADS=8"),
        ({"memory": Memory(64 * GIB, GIB, 0, None)}, "LITTLE_MEMORY", "problem", "1.0 GiB of memory", "--workers"),
        ({"memory": Memory(64 * GIB, 60 * GIB, 0, GIB)}, "LITTLE_MEMORY", "problem", "1.0 GiB of memory", "--workers"),
        ({"work": replace(GOOD.work, free=GIB)}, "LITTLE_DISK", "problem", "1.0 GiB are free", "TFCLI_WORK"),
        ({"work": replace(GOOD.work, writable=False)}, "WORK_NOT_WRITABLE", "stops", "cannot be written", "--work"),
        ({"shared_memory": Space(GIB // 16, 0, 0, None, True)}, "LITTLE_SHARED_MEMORY", "problem", "64 MiB", "--shm-size"),
        ({"limits": {"open files": 256}}, "FEW_OPEN_FILES", "problem", "256 files", "ulimit -n 1024"),
        ({"limits": {"file size": GIB}}, "LIMITED", "problem", "write files of 1 GiB", "ulimit -f unlimited"),
        ({"limits": {"address space": 4 * GIB}}, "LIMITED", "problem", "use 4 GiB", "ulimit -v unlimited"),
        (of(CUDA_LAUNCH_BLOCKING="1"), "VARIABLE", "problem", "each kernel is waited for", "unset CUDA_LAUNCH_BLOCKING"),
        (of(PYTORCH_NO_CUDA_MEMORY_CACHING="1"), "VARIABLE", "problem", "is asked for each time", "unset PYTORCH_NO"),
        (of(LD_PRELOAD="libjemalloc"), "VARIABLE", "remark", "LD_PRELOAD is libjemalloc", "unset LD_PRELOAD"),
        (of(NVIDIA_TF32_OVERRIDE="0"), "VARIABLE", "remark", "TF32", "unset NVIDIA_TF32_OVERRIDE"),
        (of(PYTORCH_KERNEL_CACHE_PATH="set"), "VARIABLE", "remark", "PYTORCH_KERNEL_CACHE_PATH is set", ""),
        (of(WORLD_SIZE="8", OMP_NUM_THREADS="1"), "VARIABLE", "remark", "torchrun", "unset WORLD_SIZE"),
    ],
)  # fmt: skip
def test_each_is_found_once(change: dict[str, Any], code: str, gravity: str, what: str, fix: str) -> None:
    found = hazards(replace(GOOD, **change))
    assert [(one.code, one.gravity) for one in found] == [(code, gravity)]
    assert what in found[0].what
    assert fix in found[0].fix


def test_the_gravest_comes_first() -> None:
    found = hazards(replace(GOOD, missing=("zarr",), **of(OMP_NUM_THREADS="1", CUDA_LAUNCH_BLOCKING="1")))
    assert [one.gravity for one in found] == ["stops", "problem", "remark"]


def test_values_that_change_nothing_are_no_hazard() -> None:
    quiet = of(
        CUDA_LAUNCH_BLOCKING="0", PYTHONOPTIMIZE="0", LD_PRELOAD="", PYTORCH_ALLOC_CONF="", ATEN_CPU_CAPABILITY="avx2"
    )
    assert hazards(replace(GOOD, **quiet)) == ()
