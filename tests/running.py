"""`tfcli` as tests run it: in this process wherever nothing is killed, or as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, Signals, signal
from threading import Thread

from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Done:
    """What a command line gave."""

    code: int
    stdout: str
    stderr: str


def tfcli(*arguments: str) -> Done:
    """A command line in this process: the imports of a process of its own take 2 s."""
    from tfcli.app import app

    result = CliRunner().invoke(app, list(arguments), prog_name="tfcli")
    return Done(result.exit_code, result.stdout, result.stderr)


def tfcli_process(*arguments: str) -> Done:
    """A command line as a user runs it."""
    done = subprocess.run(_command(arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def signalled(ready: Callable[[], bool], *arguments: str, number: Signals = SIGKILL) -> Done:
    """A process whose whole group gets a signal as soon as `ready`."""
    process = subprocess.Popen(
        _command(arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and not ready():
        time.sleep(0.002)
    assert process.poll() is None, (
        f"{arguments[0]} was over before the signal: {process.stderr and process.stderr.read()}"
    )
    os.killpg(process.pid, number)
    stdout, stderr = process.communicate(timeout=60)
    return Done(process.returncode, stdout, stderr)


def stopped(ready: Callable[[], bool], *arguments: str, number: Signals) -> Done:
    """A command line in this process, which gets a signal as soon as `ready`. One that comes too late is lost."""
    over = False
    before = signal(number, lambda *_: None)

    def watch() -> None:
        while not over:
            if ready():
                os.kill(os.getpid(), number)
                return
            time.sleep(0.002)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        return tfcli(*arguments)
    finally:
        over = True
        watcher.join()
        signal(number, before)


@contextmanager
def processor_seconds_below(limit: float) -> Iterator[None]:
    """Of this process and of those that end in the block: seconds of the clock depend on what else runs on the machine."""
    before = sum(os.times()[:4])
    yield
    assert sum(os.times()[:4]) - before < limit


def _command(arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "tfcli", *arguments]
