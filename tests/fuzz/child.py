"""One command line of tfcli in a forked process: warm imports, a time limit, memory and disk bounded, output caught.

A fresh Python takes three seconds to import torch; a fork of a process that has it takes a few milliseconds. The parent only
imports: threads that a library starts when it is used would be missing in the fork.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import resource
import signal
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MEMORY = 3 << 30  # bytes on top of what the parent has mapped: a reader of /dev/zero must not take the machine down
FILE = 256 << 20  # no file of a case may grow beyond it
CLOSED = {  # nothing outside may be asked, and a variable of the machine must not change a result
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TERM": "dumb",
    "COLUMNS": "200",
}
Kill = Callable[[], None]


@dataclass(frozen=True)
class Outcome:
    """rc: the exit code, minus the signal where one ended the process, None where the time limit did."""

    rc: int | None
    stdout: str
    stderr: str
    seconds: float


def warm_up() -> None:
    """Import all that a command may import, without using any of it."""
    import torch

    torch.set_num_threads(1)
    for package in ("stages", "tfcli"):
        root = importlib.import_module(package)
        for found in pkgutil.walk_packages(root.__path__, f"{package}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
    for name in ("zarr", "zarr.codecs", "diffusers", "sentencepiece", "webdataset", "pyarrow", "pyarrow.parquet"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in ("AutoencoderKL",):  # diffusers imports it when it is first asked for
        getattr(importlib.import_module("diffusers"), name)
    from PIL import Image

    Image.init()


def run_tfcli(args: list[str], folder: Path, home: Path, limit: float, kill: Kill | None = None) -> Outcome:
    """`tfcli ARGS` in `folder`. limit: seconds until it counts as hanging. kill: called in the child before the command; it
    arranges that the child ends at some moment."""
    logs = [home.parent / f"std{name}" for name in ("out", "err")]
    for log in logs:
        log.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _in_child(args, folder, home, logs, kill)
    status = _wait(pid, began + limit)
    seconds = time.monotonic() - began
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # what it has started and left behind
    texts = [log.read_bytes().decode(errors="replace") if log.exists() else "" for log in logs]
    rc = None if status is None else os.waitstatus_to_exitcode(status)
    return Outcome(rc, texts[0], texts[1], seconds)


def _wait(pid: int, deadline: float) -> int | None:
    """The status of the child, None where it had to be killed."""
    pause = 0.001
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(pause)
        pause = min(0.02, pause * 1.5)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _in_child(args: list[str], folder: Path, home: Path, logs: list[Path], kill: Kill | None) -> None:
    """Never returns."""
    code = 99
    try:
        os.setsid()
        for number, log in enumerate(logs, 1):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        _bound()
        sys.modules["__main__"] = types.ModuleType(
            "__main__"
        )  # else a process that the command starts would run ours again
        os.chdir(folder)
        os.environ.update({**CLOSED, "HOME": str(home), "TMPDIR": str(home.parent / "tmp")})
        os.environ.pop("PYTHONPATH", None)
        os.fsync = lambda _: None  # no power is cut here
        sys.argv = ["tfcli", *args]
        if kill is not None:
            kill()
        from tfcli.app import main

        try:
            main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        code = 1
    finally:
        os._exit(code)


def _bound() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    for limit, size in ((resource.RLIMIT_AS, pages * resource.getpagesize() + MEMORY), (resource.RLIMIT_FSIZE, FILE)):
        most = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (size if most < 0 else min(size, most),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
