"""Facts of a machine, from the kernel's own files as different machines have them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from stages.core.machine_report import driver, environment, machine_report, memory_limit, processor, space

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8
"""
OLD = "processor\t: 0\nmodel name\t: Old One\nflags\t\t: fpu avx2 not_avx512_bf16\n"
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd sve i8mm bf16\n"


@pytest.mark.parametrize(
    ("text", "name", "bf16", "amx", "instruction"),
    [(XEON, "Intel(R) Xeon(R) Platinum 8480+", True, True, "amx_tile"), (OLD, "Old One", False, False, "avx2")],
)
def test_a_processor_is_known_by_its_flags(
    tmp_path: Path, text: str, name: str, bf16: bool, amx: bool, instruction: str
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    found = processor(tmp_path / "cpuinfo", tmp_path)
    assert (found.name, found.bf16, found.amx, found.quota) == (name, bf16, amx, None)
    assert instruction in found.instructions
    assert found.usable == len(os.sched_getaffinity(0))


def test_processors_of_arm_and_unknown_ones(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(GRAVITON)
    assert processor(tmp_path / "cpuinfo", tmp_path).bf16
    unknown = processor(tmp_path / "nothing", tmp_path)
    assert (unknown.bf16, unknown.instructions) == (False, ())
    assert unknown.name


@pytest.mark.parametrize(
    ("files", "quota", "limit"),
    [
        ({"cpu.max": "150000 100000\n", "memory.max": "8589934592\n"}, 1.5, 8 << 30),
        ({"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, None),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None, None),
        ({"memory/memory.limit_in_bytes": "1073741824\n"}, None, 1 << 30),
        ({}, None, None),
    ],
)
def test_limits_of_a_container(tmp_path: Path, files: dict[str, str], quota: float | None, limit: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processor(tmp_path / "cpuinfo", tmp_path).quota == quota
    assert memory_limit(tmp_path) == limit


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build  (a@b)\n", "550.54.14"),
        ("something else", None),
    ],
)
def test_the_driver(tmp_path: Path, text: str, version: str | None) -> None:
    (tmp_path / "version").write_text(text)
    assert driver(tmp_path / "version") == version
    assert driver(tmp_path / "nothing") is None


def test_the_disk_is_that_of_what_is_there_of_the_folder(tmp_path: Path) -> None:
    here = os.path.realpath(tmp_path)
    (tmp_path / "work2").mkdir()
    mounts = tmp_path / "mounts"
    mounts.write_text(f"a / ext4 rw 0 0\nb {here}/work nfs4 rw 0 0\nc {here} tmpfs rw 0 0\nd {here} overlay rw 0 0\n")
    (tmp_path / "work").mkdir()
    kinds = {}
    for name in ("work/not/there", "work", "work2", "."):
        found = space(tmp_path / name, mounts)
        assert found is not None
        assert 0 < found.free <= found.total
        kinds[name] = found.system
    assert kinds == {"work/not/there": "nfs4", "work": "nfs4", "work2": "overlay", ".": "overlay"}
    assert space(Path("/proc/self"), mounts).system == "ext4"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    found = space(tmp_path / "work")
    assert found is not None
    assert not found.writable


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("OMP_NUM_THREADS", "8", "8"),
        ("OMP_NUM_THREADS", "", ""),
        ("OMP_NUM_THREADS", "alice", "set"),
        ("CUDA_VISIBLE_DEVICES", "0,1", "0,1"),
        ("CUDA_VISIBLE_DEVICES", "-1", "-1"),
        ("PYTORCH_ALLOC_CONF", "expandable_segments:True,max_split_size_mb:9", "expandable_segments:True,max_split_size_mb:9"),
        ("PYTORCH_CUDA_ALLOC_CONF", "alice", "set"),
        ("PYTORCH_KERNEL_CACHE_PATH", "/home/alice/.cache", "set"),
        ("NCCL_SOCKET_IFNAME", "alice0", "set"),
        ("NCCL_DEBUG", "INFO", "INFO"),
        ("TORCH_HOME", "/home/alice/torch", "set"),
        ("TFCLI_WORK", "/data/alice/work", "set"),
        ("TFCLI_DEVICE", "cuda:0", "cuda:0"),
        ("LD_PRELOAD", "/home/alice/lib/libjemalloc.so.2:/home/alice/libalice.so", "libjemalloc another library"),
        ("HF_TOKEN", "hf_secret", None),
        ("WANDB_API_KEY", "secret", None),
        ("PATH", "/home/alice/bin", None),
        ("PYTORCH_alice", "1", None),
    ],
)  # fmt: skip
def test_of_the_environment_only_harmless_values_are_shown(name: str, value: str, shown: str | None) -> None:
    assert environment({name: value, "USER": "alice"}) == ({} if shown is None else {name: shown})


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    found = machine_report(tmp_path)
    assert found.torch.version == torch.__version__
    assert found.torch.threads == torch.get_num_threads()
    assert found.packages["zarr"]
    assert "torch" in found.packages
    assert found.missing == ()
    assert found.memory.total is not None
    assert found.memory.available is not None
    assert 0 < found.memory.available <= found.memory.total
    assert found.limits.keys() == {"open files", "processes", "file size", "address space"}
    monkeypatch.setitem(sys.modules, "torch", None)
    broken = machine_report(tmp_path).torch
    assert (broken.version, broken.gpus) == (torch.__version__, ())
    assert broken.error.startswith("ModuleNotFoundError")
