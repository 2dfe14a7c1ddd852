"""What `tfcli doctor` says of this machine: plain text for a report, the same on every terminal, or JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from stages.core.errors import ExitCode, TfcliError
from stages.core.text import printable
from tfcli import render

if TYPE_CHECKING:
    from stages.core.machine_report import MachineReport, Space
    from stages.doctor.findings import Finding

_WIDTH = 15


def check_machine(work: Path, *, json: bool, quiet: bool) -> None:
    """Print the report. Raises TfcliError (ENVIRONMENT) where nothing would run."""
    from stages.core.machine_report import machine_report
    from stages.doctor.hazards import hazards

    report = machine_report(work)
    found = hazards(report)
    if json:
        render.show_json(asdict(report) | {"hazards": [asdict(finding) for finding in found]})
    else:
        lines = [] if quiet else [f"{name:{_WIDTH}} {text}" for name, text in report_lines(report)] + [""]
        lines += [line for finding in found for line in _finding_lines(finding)]
        lines += [] if found or quiet else ["no hazards found"]
        render.show_text("".join(f"{printable(line)}\n" for line in lines))
    if found and found[0].gravity == "stops":
        what = f"nothing runs here: {found[0].what}"
        raise TfcliError(what, fix=found[0].fix, code=ExitCode.ENVIRONMENT)


def report_lines(report: MachineReport) -> list[tuple[str, str]]:
    """Each line with its name."""
    return [
        ("tfcli", f"{report.tfcli}, commit {report.commit}"),
        ("Python", report.python),
        ("torch", _torch_text(report)),
        ("packages", ", ".join(f"{name} {version}" for name, version in sorted(report.packages.items()))),
        ("system", report.system),
        ("processor", _processor_text(report)),
        *_gpu_lines(report),
        ("memory", _memory_text(report)),
        ("shared memory", _space_text(report.shared_memory)),
        ("limits", ", ".join(f"{name} {_limit_text(name, limit)}" for name, limit in report.limits.items())),
        ("work folder", _space_text(report.work)),
        ("environment", ", ".join(f"{name}={value}" for name, value in report.environment.items()) or "nothing set"),
    ]


def _finding_lines(finding: Finding) -> list[str]:
    fix = [f"{'':9}fix: {finding.fix}"] if finding.fix else []
    return [f"{finding.gravity:8} {finding.what}", *fix]


def _torch_text(report: MachineReport) -> str:
    torch = report.torch
    if torch.version is None or torch.error:
        return torch.error or "not installed"
    build = f"CUDA {torch.cuda}" if torch.cuda else "no CUDA"
    threads = f"{torch.threads} thread" + "s" * (torch.threads != 1)
    return f"{torch.version}, {build}, {threads}, oneDNN {'yes' if torch.onednn else 'no'}"


def _processor_text(report: MachineReport) -> str:
    machine = report.processor
    quota = f", the time of {machine.quota:.3g}" if machine.quota is not None else ""
    bf16 = f"bf16 {'yes' if machine.bf16 else 'no'}, AMX {'yes' if machine.amx else 'no'}"
    known = " ".join(machine.instructions) or "instructions unknown"
    return f"{machine.name} ({machine.architecture}), {machine.usable} of {machine.cores} cores{quota}; {bf16}; {known}"


def _gpu_lines(report: MachineReport) -> list[tuple[str, str]]:
    lines = [
        (
            f"GPU {number}",
            f"{gpu.name}, {render.size_text(gpu.memory)}"
            + (f", {render.size_text(gpu.free)} free" if gpu.free is not None else "")
            + f", compute capability {gpu.capability}, bf16 {'yes' if gpu.bf16 else 'no'}",
        )
        for number, gpu in enumerate(report.torch.gpus)
    ]
    return [*(lines or [("GPU", "none that torch can use")]), ("NVIDIA driver", report.driver or "none")]


def _memory_text(report: MachineReport) -> str:
    memory = report.memory
    parts = [f"{_size(memory.total)}, {_size(memory.available)} available, swap {_size(memory.swap)}"]
    parts += [f"limit of the container {_size(memory.limit)}"] if memory.limit is not None else []
    return ", ".join(parts)


def _space_text(space: Space | None) -> str:
    if space is None:
        return "none"
    writable = "" if space.writable else ", not writable"
    return f"{_size(space.free)} free of {_size(space.total)}, {space.system or 'unknown'}{writable}"


def _limit_text(name: str, limit: int | None) -> str:
    if limit is None:
        return "unlimited"
    return f"{limit:,}" if name in ("open files", "processes") else render.size_text(limit)


def _size(number: int | None) -> str:
    return "unknown" if number is None else render.size_text(number)
