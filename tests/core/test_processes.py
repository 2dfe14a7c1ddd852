"""Workers start whatever TMPDIR is called; a helper ends with the process that it works for, and not by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.core.processes import Helper, short_folder

ROOT = Path(__file__).parents[2]
PROGRAM = """
from multiprocessing import process
from stages.core.processes import forkserver
if __name__ == "__main__":
    worker = forkserver().Process(target=print, args=("hello",))
    worker.start()
    worker.join()
    print(process.current_process()._config.get("tempdir"))
"""

# Ends by SIGKILL: at once, or when its helper is at work and has ignored a signal.
KILLED = """
import os, signal, sys, time
from stages.core.processes import Helper
if __name__ == "__main__":
    helper = Helper("tests.core.endless", "serve")
    if sys.argv[1] == "at work":
        assert helper.pipe.recv() == "at work"
        os.kill(helper.pid, signal.SIGTERM)
        time.sleep(0.3)
        assert not helper.exited
    print(helper.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def runs(pid: int) -> bool:
    """Whether there is such a process, and not only what is left of it until somebody asks for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("when", ["at once", "at work"])
def test_a_helper_ends_when_its_process_is_killed(tmp_path: Path, when: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(KILLED)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program), when]
    # files: a helper that outlives its process would hold a pipe open
    with open(tmp_path / "out", "w") as out, open(tmp_path / "errors", "w") as errors:
        done = subprocess.run(command, env=env, stdout=out, stderr=errors, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL, (tmp_path / "errors").read_text()
    pid = int((tmp_path / "out").read_text())
    try:
        deadline = time.monotonic() + 10
        while runs(pid):
            assert time.monotonic() < deadline, "it is still there"
            time.sleep(0.02)
    finally:
        if runs(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_helper_is_stopped_whatever_it_does() -> None:
    helper = Helper("tests.core.endless", "serve")
    assert helper.pipe.recv() == "at work"
    pid = helper.pid
    assert pid is not None
    assert runs(pid)
    helper.stop()
    assert not runs(pid)


@pytest.mark.parametrize("length", [40, 75, 76, 100, 200])
def test_a_worker_starts_with_a_tmpdir_of_any_length(length: int) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as outer:
        folder = Path(outer) / ("d" * (length - len(outer) - 1))
        folder.mkdir()
        assert len(str(folder)) == length
        program = Path(outer) / "program.py"
        program.write_text(PROGRAM)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
        done = subprocess.run(
            [sys.executable, str(program)], env=env, capture_output=True, text=True, check=False, timeout=60
        )
        said, used = done.stdout.split()
        assert (done.returncode, said) == (0, "hello"), done.stderr
        assert used.startswith(str(folder)) == (length <= 75)
        assert not Path(used).exists()  # it went with the process
        assert list(folder.iterdir()) == []


def test_no_short_place_is_code_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/" + "d" * 90)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(TfcliError, match="TMPDIR is too long") as caught:
        short_folder(32)
    assert caught.value.code == ExitCode.ENVIRONMENT
