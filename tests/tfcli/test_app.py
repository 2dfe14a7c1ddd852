"""The process as a whole: exit codes, streams, closed pipes, locales, and what gets imported."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.core.errors import ExitCode, TfcliError
from tests.running import processor_seconds_below

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "zarr", "diffusers", "sentencepiece", "webdataset", "transformers")


def spawn(args: list[str], cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run `tfcli` as a process of its own."""
    own = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(cwd), **env}
    command = [sys.executable, "-m", "tfcli", *args]
    return subprocess.run(command, cwd=cwd, env=own, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["inspect", "nowhere"], 2),
        (["train", "--bogus"], 2),
        (["recipe"], 2),
    ],
)
def test_light_commands_import_nothing_heavy(args: list[str], code: int) -> None:
    program = (
        "import sys, atexit\n"
        f"atexit.register(lambda: sys.stderr.write('HEAVY:' + ' '.join(m for m in {HEAVY!r} if m in sys.modules)))\n"
        f"sys.argv = ['tfcli', *{args!r}]\n"
        "from tfcli.app import main\nmain()"
    )
    with processor_seconds_below(2):
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.endswith("HEAVY:")


def test_a_fresh_run_imports_nothing_heavy(world: Any) -> None:
    world.call("run", "tiny")
    assert world.made
    # the parent of this process has made all; here a real interpreter without the fake stages finds it fresh
    program = (
        "import sys\n"
        "sys.argv = ['tfcli', 'run', 'recipes/tiny.toml', '--json']\n"
        "from tfcli.app import app\n"
        "try: app()\n"
        f"finally: sys.stderr.write('HEAVY:' + ' '.join(m for m in {HEAVY!r} if m in sys.modules))\n"
    )
    with processor_seconds_below(3):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"state": "fresh"') == 7
    assert done.stderr.endswith("HEAVY:")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (TfcliError("the disk burns", why="it is hot", fix="water", code=ExitCode.INPUT), 3, "fix: water"),
        (TfcliError("nan", code=ExitCode.DIVERGED), 6, "error: nan"),
        (OSError(errno.ENOSPC, "No space left on device"), 5, "no space on the disk"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 5, "not allowed"),
        (MemoryError(), 5, "out of memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), 5, "out of memory"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 5, "a worker process exited"),
        (ZeroDivisionError("[/b] \x1b[31m\nx"), 1, "error: internal error: ZeroDivisionError: [/b] \\x1b[31m\\nx"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(0), 1, ""),
    ],
)
def test_every_failure_has_its_exit_code(
    world: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    def fail(*_args: Any) -> None:
        raise error

    monkeypatch.setattr("tfcli.commands.session.load_recipe", fail)
    result = world.call("vae", "-r", "tiny")
    assert result.exit_code == code
    assert text in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    if isinstance(error, Exception):
        assert "Traceback" in world.call("vae", "-r", "tiny", "--debug").stderr


def test_paragraphs_of_the_help_are_broken_at_the_width_of_the_terminal_alone() -> None:
    lines = [line.strip() for line in spawn(["plan", "--help"], COLUMNS="80").stdout.decode().splitlines()]
    first = next(number for number, line in enumerate(lines) if line.startswith("Counted are"))
    assert all(len(line) > 60 for line in lines[first : first + 3])
    assert "Examples: tfcli plan paper-0.76b --gpus 8xH100" in lines


def test_errors_of_arguments_have_the_same_form() -> None:
    done = spawn(["train", "--recipee", "x"])
    assert done.returncode == 2
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("error: No such option: --recipee")
    assert lines[1] == "fix: see 'tfcli train --help'"
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("env", "plain"),
    [
        ({"LANG": "C"}, True),
        ({"LC_ALL": "C"}, True),
        ({"PYTHONIOENCODING": "latin-1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_locales(tmp_path: Path, env: dict[str, str], plain: bool) -> None:
    name = "caf\u00e9-\u2603-\udcff"
    done = spawn(["inspect", name], cwd=tmp_path, **env)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(b"error: caf")
    assert not plain or done.stderr.isascii()
    help_text = spawn(["--help"], cwd=tmp_path, **env)
    assert help_text.returncode == 0
    assert not plain or help_text.stdout.isascii()


REDIRECTS = ("| true", ">&-", "2>&-", ">&- 2>&-", "2>&1 | true", "| head -c 1 >/dev/null")
# every way of closing for one command, and for each way of writing the pipe that nobody reads (help is Typer's own)
CLOSED = [("inspect work/tiny", redirect) for redirect in REDIRECTS]
CLOSED += [(command, "| true") for command in ("--help", "verify work/tiny", "recipe list")] + [("--help", ">&-")]


@pytest.mark.parametrize(("command", "redirect"), CLOSED)
def test_closed_pipes(world: Any, redirect: str, command: str) -> None:
    world.call("run", "tiny", "--until", "vae")
    script = f"set -o pipefail; {sys.executable} -m tfcli {command} {redirect}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_reader_that_is_gone_is_no_failure(world: Any) -> None:
    world.call("run", "tiny", "--until", "vae")
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "tfcli", "inspect", "work/tiny"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(command, env=env, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("broken", "code", "says"), [("standard output", 0, b""), ("a worker's pipe", 5, b"error: a worker process exited")]
)
def test_the_pipe_of_standard_output_is_told_from_that_of_a_worker(broken: str, code: int, says: bytes) -> None:
    """Typer writes the end of a group's help by itself, without rich, which would know what to do."""
    program = """
import os, sys
from tfcli.app import app, main
read, write = os.pipe()
os.close(read)
if sys.argv.pop() == "standard output":
    os.dup2(write, 1)
    write = 1
@app.command("writes")
def writes() -> None:
    os.write(write, b"x")
main()
"""
    command = [sys.executable, "-c", program, "writes", broken]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr[: len(says) or None]) == (code, says)


def test_no_file_gets_the_number_of_a_closed_stream() -> None:
    program = "import os; from tfcli.app import _open_missing_streams as f; f(); os._exit(os.open('/dev/null', 0))"
    script = f'{sys.executable} -c "{program}" <&- >&- 2>&-'
    assert subprocess.run(["bash", "-c", script], cwd=ROOT, timeout=60, check=False).returncode > 2
