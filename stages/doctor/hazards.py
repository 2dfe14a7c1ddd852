"""What a machine report says of trouble ahead: findings with what fixes each, the gravest first."""

from __future__ import annotations

from collections.abc import Iterator

from stages.core.machine_report import MachineReport
from stages.doctor.findings import Finding, by_gravity

GIB = 2**30
LEAST_DISK = 5 * GIB
LEAST_MEMORY = 2 * GIB
LEAST_SHARED = GIB  # containers have 64 MiB by default, which NCCL between GPUs of one machine exceeds
LEAST_FILES = 1024


def hazards(report: MachineReport) -> tuple[Finding, ...]:
    """stops: nothing would run. problem: a run would be slow, wrong or end in the middle. remark: good to know."""
    return by_gravity(
        [*_installation(report), *_devices(report), *_threads(report), *_resources(report), *_variables(report)]
    )


def _installation(report: MachineReport) -> Iterator[Finding]:
    for name in report.missing:
        yield Finding("MISSING_PACKAGE", "stops", f"{name} is not installed, and tfcli needs it", f"pip install {name}")
    if report.torch.error:
        yield Finding("TORCH_BROKEN", "stops", f"torch cannot be imported: {report.torch.error}", "install torch again")
    if report.environment.get("PYTHONOPTIMIZE", "") not in ("", "0"):
        what = "PYTHONOPTIMIZE is set: Python leaves out the checks by which tfcli finds its own mistakes"
        yield Finding("PYTHON_OPTIMIZED", "problem", what, "unset PYTHONOPTIMIZE")


def _devices(report: MachineReport) -> Iterator[Finding]:
    visible = report.environment.get("CUDA_VISIBLE_DEVICES")
    if report.torch.version is None or report.torch.error or report.torch.gpus:
        return
    if report.driver is not None and report.torch.cuda is None:
        what = f"there is an NVIDIA driver ({report.driver}), and this torch is built without CUDA"
        yield Finding(
            "TORCH_WITHOUT_CUDA", "problem", what, "install a CUDA build: https://pytorch.org/get-started/locally"
        )
    elif report.driver is not None and visible in ("", "-1", "nodevfiles"):
        what = f"CUDA_VISIBLE_DEVICES={visible} hides every GPU"
        yield Finding(
            "GPUS_HIDDEN", "problem", what, "unset CUDA_VISIBLE_DEVICES, or name GPUs: CUDA_VISIBLE_DEVICES=0"
        )
    elif report.driver is not None:
        what = f"torch for CUDA {report.torch.cuda} finds no GPU, and the driver ({report.driver}) is loaded"
        yield Finding(
            "NO_GPU_FOUND", "problem", what, "see what 'nvidia-smi' says; a driver may be too old for this CUDA"
        )


def _threads(report: MachineReport) -> Iterator[Finding]:
    machine = report.processor
    may_use = machine.may_use
    asked = report.environment.get("OMP_NUM_THREADS", "")
    fix = f"export OMP_NUM_THREADS={may_use}"
    if not asked:
        if may_use < machine.usable:
            what = f"OMP_NUM_THREADS is not set: torch starts {machine.usable} threads, the container has the time of {may_use}"
            yield Finding("THREADS_NOT_SET", "problem", what, fix)
    elif not asked.split(",")[0].strip("0").isdigit():
        yield Finding("THREADS_ODD", "problem", f"OMP_NUM_THREADS={asked} is no number of threads", fix)
    elif (threads := int(asked.split(",")[0])) > may_use:
        what = f"OMP_NUM_THREADS={threads} is more than the {may_use} processors that may be used"
        yield Finding("THREADS_TOO_MANY", "problem", what, fix)
    elif threads < may_use and "WORLD_SIZE" not in report.environment:
        what = f"OMP_NUM_THREADS={threads}: a run on the CPU uses {threads} of {may_use} processors"
        yield Finding("THREADS_FEW", "remark", what, fix)


def _resources(report: MachineReport) -> Iterator[Finding]:
    memory, work, shared = report.memory, report.work, report.shared_memory
    there = [number for number in (memory.available, memory.limit) if number is not None]
    if there and min(there) < LEAST_MEMORY:
        what = f"{min(there) / GIB:.1f} GiB of memory can be had"
        yield Finding("LITTLE_MEMORY", "problem", what, "end other programs, or use smaller models and fewer --workers")
    if work is not None and not work.writable:
        fix = "give another one: --work or TFCLI_WORK"
        yield Finding("WORK_NOT_WRITABLE", "stops", "the work folder cannot be written", fix)
    elif work is not None and work.free < LEAST_DISK:
        what = f"{work.free / GIB:.1f} GiB are free where the work folder is"
        yield Finding("LITTLE_DISK", "problem", what, "free some space, or give another one: --work or TFCLI_WORK")
    if shared is not None and shared.total < LEAST_SHARED and len(report.torch.gpus) > 1:
        what = f"/dev/shm holds {shared.total / 2**20:,.0f} MiB, and NCCL shares memory between GPUs there"
        yield Finding("LITTLE_SHARED_MEMORY", "problem", what, "docker run --ipc=host, or --shm-size=8g")
    files = report.limits.get("open files")
    if files is not None and files < LEAST_FILES:
        yield Finding("FEW_OPEN_FILES", "problem", f"a process may have {files} files open", f"ulimit -n {LEAST_FILES}")
    for name, word in (("file size", "write files of"), ("address space", "use")):
        limit = report.limits.get(name)
        if limit is not None:
            what = f"a process may {word} {limit / GIB:,.3g} GiB at most"
            yield Finding("LIMITED", "problem", what, f"ulimit -{'f' if name == 'file size' else 'v'} unlimited")


# name, value that is meant ("": any), what it does
_EFFECTS = (
    ("CUDA_LAUNCH_BLOCKING", "1", "problem", "each kernel is waited for: training is much slower"),
    (
        "PYTORCH_NO_CUDA_MEMORY_CACHING",
        "1",
        "problem",
        "memory of the GPU is asked for each time: training is much slower",
    ),
    ("ATEN_CPU_CAPABILITY", "default", "problem", "torch leaves the processor's vector instructions unused"),
    ("DNNL_MAX_CPU_ISA", "", "remark", "oneDNN may leave instructions of the processor unused"),
    ("ONEDNN_MAX_CPU_ISA", "", "remark", "oneDNN may leave instructions of the processor unused"),
    ("DNNL_DEFAULT_FPMATH_MODE", "", "remark", "products in float32 may be rounded to fewer digits"),
    ("ONEDNN_DEFAULT_FPMATH_MODE", "", "remark", "products in float32 may be rounded to fewer digits"),
    ("NVIDIA_TF32_OVERRIDE", "", "remark", "it decides whether products in float32 are rounded to TF32"),
    ("LD_PRELOAD", "", "remark", "libraries are loaded into every process"),
    ("WORLD_SIZE", "", "remark", "every process takes itself for one of torchrun's"),
)


def _variables(report: MachineReport) -> Iterator[Finding]:
    reported = set()
    for name, value, gravity, effect in _EFFECTS:
        found = report.environment.get(name)
        if found and value in ("", found):
            reported.add(name)
            what = f"{name} is {found}: {effect}" if found != "set" else f"{name} is set: {effect}"
            yield Finding("VARIABLE", "problem" if gravity == "problem" else "remark", what, f"unset {name}")
    for name, value in report.environment.items():
        if name.startswith("PYTORCH_") and value and name not in reported:
            yield Finding("VARIABLE", "remark", f"{name} is {value}: it changes how torch works")
