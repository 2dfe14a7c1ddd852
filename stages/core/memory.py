"""Memory of this process, and memory that is still available, from the files of /proc on Linux."""

from __future__ import annotations

import os
from pathlib import Path

from stages.core.errors import ExitCode, TfcliError

_STATUS = Path("/proc/self/status")


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """MemAvailable of Linux, in bytes; None where it is unknown."""
    return _kib(meminfo, "MemAvailable:")


def meminfo_bytes(name: str, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """A line of Linux's own account, such as "MemTotal:"; None where there is none."""
    return _kib(meminfo, name)


def all_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Memory of the machine including swap, in bytes; None where it is unknown."""
    memory, swap = _kib(meminfo, "MemTotal:"), _kib(meminfo, "SwapTotal:")
    return None if memory is None else memory + (swap or 0)


def require_memory(needed: int, what: str, fix: str) -> None:
    """Raise TfcliError (ENVIRONMENT) where `what` needs more than all memory of the machine: Linux would grant it and kill the
    process once it is used. Nothing else is refused here."""
    present = all_bytes()
    if present is not None and needed > present:
        size, limit = (f"{number / 2**30:,.1f} GiB" for number in (needed, present))
        why = f"it takes at least {size}, this machine has {limit} of memory and swap"
        raise TfcliError(f"{what} does not fit into memory", why=why, fix=fix, code=ExitCode.ENVIRONMENT)


def resident_bytes() -> int:
    """Resident memory of the process, in bytes; 0 where it is unknown."""
    return _kib(_STATUS, "VmRSS:") or 0


def peak_bytes() -> int:
    """Peak resident memory of the process, in bytes, since `reset_peak` where Linux allows it; 0 where it is unknown.

    getrusage cannot be used: its maximum includes the program that started this one.
    """
    return _kib(_STATUS, "VmHWM:") or 0


def reset_peak() -> None:
    """Reset `peak_bytes`, where Linux allows it."""
    try:
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(descriptor, b"5")
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _kib(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(name)]
    return int(found[0]) * 1024 if found else None
