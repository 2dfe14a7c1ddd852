"""What memory this process holds, and how much it may still take before others have to go. From Linux's own files."""

from __future__ import annotations

import os
from pathlib import Path

from stages.core.errors import ExitCode, TfcliError

_STATUS = Path("/proc/self/status")


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """What Linux calls MemAvailable; None where it cannot be known."""
    return _kib(meminfo, "MemAvailable:")


def meminfo_bytes(name: str, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """A line of Linux's own account, such as "MemTotal:"; None where there is none."""
    return _kib(meminfo, name)


def all_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """All memory of the machine, swap included; None where it cannot be known."""
    memory, swap = _kib(meminfo, "MemTotal:"), _kib(meminfo, "SwapTotal:")
    return None if memory is None else memory + (swap or 0)


def require_memory(needed: int, what: str, fix: str) -> None:
    """Raise TfcliError (ENVIRONMENT) where `what` takes more than the machine has, were nothing else in it: Linux grants such
    memory and ends the process once it is used. Less than that is never refused here."""
    there = all_bytes()
    if there is not None and needed > there:
        size, whole = (f"{number / 2**30:,.1f} GiB" for number in (needed, there))
        why = f"it takes at least {size}, this machine has {whole} of memory and swap"
        raise TfcliError(f"{what} does not fit into memory", why=why, fix=fix, code=ExitCode.ENVIRONMENT)


def resident_bytes() -> int:
    """What the process holds in memory now; 0 where it cannot be known."""
    return _kib(_STATUS, "VmRSS:") or 0


def peak_bytes() -> int:
    """The most that the process ever held in memory, since `reset_peak` where that works; 0 where it cannot be known.

    Not getrusage: its maximum goes back to the program that started this one.
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
