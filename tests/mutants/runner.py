"""Plants each fault of a list into a copy of the code of its own, and runs the tests that must see it.

The checkout is read only. A copy has what the tests need, is the first on the path of every process, and goes with its run.
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.mutants.mutant import Mutant

COPIED = ("pyproject.toml", "recipes", "stages", "tests", "tfcli")
Outcome = Literal["seen", "unseen", "broken", "slow", "unsure"]
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?\.py::.*?)(?: - .*)?$", re.MULTILINE)
_ALL_PASSED, _SOME_FAILED = 0, 1  # exit codes of pytest; others: nothing was collected, or nothing could be imported


@dataclass(frozen=True)
class Result:
    """What the tests said of one mutant. outcome: "seen", a test failed; "unseen", all passed; "broken", there was nothing to run,
    as the code could not be imported; "slow", no end within the limit; "unsure", the test fails without the fault as well. test:
    the one that failed. output: the end of what pytest wrote, where nothing failed that should."""

    mutant: Mutant
    outcome: Outcome
    seconds: float
    test: str = ""
    output: str = ""


@dataclass
class _Processes:
    """The pytest processes that are running, each the first of a group of its own, so that all of a group can be ended."""

    running: set[int] = field(default_factory=set)
    stopped: bool = False

    def run(self, command: list[str], folder: Path, seconds: float) -> tuple[int | None, str]:
        """The exit code (None: no end within the limit) and the output. folder: also the first on the path."""
        env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        options = {"cwd": folder, "env": env, "text": True, "start_new_session": True}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options) as process:  # type: ignore[call-overload]
            self.running.add(process.pid)
            try:
                if self.stopped:
                    self._kill(process.pid)
                output, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                self._kill(process.pid)
                output, _ = process.communicate()
                return None, output
            finally:
                self.running.discard(process.pid)
        return process.returncode, output

    def stop(self) -> None:
        self.stopped = True
        for pid in tuple(self.running):
            self._kill(pid)

    @staticmethod
    def _kill(pid: int) -> None:
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def run_mutants(
    mutants: Sequence[Mutant], root: Path, *, workers: int, seconds: float, report: Callable[[Result], None]
) -> list[Result]:
    """The result of each mutant, in the order of the list.

    Args:
        mutants: the list. Raises ListError, before anything runs, where one of them does not fit the code.
        root: of the checkout.
        workers: mutants that are tried at the same time.
        seconds: limit for the tests of one mutant.
        report: called with each result as it comes, from this thread.
    """
    texts = [mutant.planted(root) for mutant in mutants]
    processes = _Processes()
    with _copy(root) as clean, ThreadPoolExecutor(workers) as pool:
        try:
            runs = {
                pool.submit(_try, mutant, text, clean, processes, seconds): mutant
                for mutant, text in zip(mutants, texts, strict=True)
            }
            results = {}
            for run in as_completed(runs):
                results[runs[run].name] = run.result()
                report(run.result())
            found = [results[mutant.name] for mutant in mutants]
            return _checked(found, clean, processes, seconds * max(1, len(found)))
        except BaseException:  # Ctrl-C too: the pool would wait for all that it has
            pool.shutdown(wait=False, cancel_futures=True)
            processes.stop()
            raise


@contextmanager
def _copy(root: Path) -> Iterator[Path]:
    """A copy of what tests need, compiled, in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="tfcli-mutants-"))
    try:
        clean = folder / "clean"
        clean.mkdir()
        for name in COPIED:
            source = root / name
            if source.is_dir():
                shutil.copytree(source, clean / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy2(source, clean / name)
        compileall.compile_dir(clean, quiet=2)
        yield clean
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _try(mutant: Mutant, text: str, clean: Path, processes: _Processes, seconds: float) -> Result:
    """The tests of one mutant, in a copy that is deleted afterwards."""
    folder = clean.parent / mutant.name
    began = time.monotonic()
    try:
        shutil.copytree(clean, folder)  # with the times of files, which say that what is compiled is in date
        path = folder / mutant.file
        path.write_text(text)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            compiled.unlink()  # size and second of the change may be the same
        code, output = processes.run(_pytest([f"tests/{tests}" for tests in mutant.tests]), folder, seconds)
        outcome, test = _judged(code, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    shown = "" if outcome == "seen" else "\n".join(output.splitlines()[-15:])
    return Result(mutant, outcome, time.monotonic() - began, test, shown)


def _pytest(tests: list[str]) -> list[str]:
    return [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
        "--tb=short",
        *tests,
    ]


def _judged(code: int | None, output: str) -> tuple[Outcome, str]:
    """The outcome, and the test that failed. An error while a test is set up is that of a test; one while a file is read is
    not, and then no test ran."""
    failed = _FAILED.search(output)
    if code is None:
        return "slow", ""
    if code == _SOME_FAILED and failed:
        return "seen", failed[1]
    return ("unseen" if code == _ALL_PASSED else "broken"), ""


def _checked(results: list[Result], clean: Path, processes: _Processes, seconds: float) -> list[Result]:
    """The results, "unsure" where the test that saw a mutant does not pass on the code as it is."""
    tests = sorted({result.test for result in results if result.outcome == "seen"})
    if not tests:
        return results
    command = [word for word in _pytest(tests) if word != "-x"]
    code, output = processes.run(command, clean, seconds)
    if code == _ALL_PASSED:
        return results
    failing = set(_FAILED.findall(output)) or set(tests)  # no test is named where pytest itself failed
    return [
        Result(each.mutant, "unsure", each.seconds, each.test, output[-2000:]) if each.test in failing else each
        for each in results
    ]
