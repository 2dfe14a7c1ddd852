"""The list of faults fits the code, and the runner says of each fault what the tests say of it."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

from tests.mutants.mutant import ListError, Mutant
from tests.mutants.rooms import ROOMS
from tests.mutants.runner import Result, run_mutants

ROOT = Path(__file__).parents[2]
MUTANTS = [mutant for mutants in ROOMS.values() for mutant in mutants]


def test_every_fault_can_be_planted_in_the_code_as_it_is() -> None:
    """The old text is there exactly once, and the new one is Python. A change of the code brings its line of the list along."""
    wrong = []
    for mutant in MUTANTS:
        try:
            text = mutant.planted(ROOT)
            if ast.dump(ast.parse(text)) == parsed(mutant.file):
                wrong.append(f"{mutant.name} changes nothing")
        except (ListError, SyntaxError) as error:
            wrong.append(f"{mutant.name}: {error}")
    assert wrong == []
    names = [mutant.name for mutant in MUTANTS]
    assert len({*names, *ROOMS}) == len(names) + len(ROOMS)  # what --only takes


@cache
def parsed(file: str) -> str:
    return ast.dump(ast.parse((ROOT / file).read_text()))


CODE = "def twice(x: int) -> int:\n    return 2 * x\n"
TESTS = """
import pytest
from stages.code import twice

@pytest.fixture
def four() -> int:
    assert twice(2) < 100
    return twice(2)

def test_twice_of_two(four: int) -> None:
    assert four == 4
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of one function and its tests, which need no plugin of pytest: those take a second to import."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for folder in ("stages", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "stages" / "code.py").write_text(CODE)
    (tmp_path / "tests" / "test_code.py").write_text(TESTS)
    (tmp_path / "tests" / "test_that_fails.py").write_text("def test_that_always_fails() -> None:\n    assert 1 == 2\n")
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["slow"]\npythonpath = ["."]\n')
    return tmp_path


def fault(name: str, old: str, new: str, tests: str = "test_code.py") -> Mutant:
    return Mutant(name, "", "stages/code.py", old, new, (tests,))


def tried(checkout: Path, *mutants: Mutant, seconds: float = 600) -> list[Result]:
    reported: list[Result] = []
    results = run_mutants(mutants, checkout, workers=2, seconds=seconds, report=reported.append)
    assert {result.mutant.name for result in reported} == {mutant.name for mutant in mutants}
    return results


def test_a_fault_is_seen_where_a_test_fails_that_passes_without_it(checkout: Path) -> None:
    results = tried(
        checkout,
        fault("wrong", "2 * x", "3 * x"),
        fault("in-a-fixture", "2 * x", "100 * x", "test_code.py::test_twice_of_two"),
        fault("equal", "2 * x", "x + x"),
        fault("no-import", "def twice", "def thrice"),
        fault("fails-anyway", "2 * x", "5 * x", "test_that_fails.py"),
    )
    assert [result.outcome for result in results] == ["seen", "seen", "unseen", "broken", "unsure"]
    seen_by = ["test_code.py::test_twice_of_two"] * 2 + ["", "", "test_that_fails.py::test_that_always_fails"]
    assert [result.test.removeprefix("tests/") for result in results] == seen_by
    assert "cannot import name" in results[3].output
    assert (checkout / "stages" / "code.py").read_text() == CODE  # nothing happened there
    files = sorted(path.name for path in checkout.rglob("*") if path.is_file())
    assert files == ["code.py", "pyproject.toml", "test_code.py", "test_that_fails.py"]


def test_tests_that_do_not_end_are_ended(checkout: Path) -> None:
    (result,) = tried(
        checkout,
        fault("endless", "return 2 * x", "return twice(x) if not __import__('time').sleep(3600) else 0"),
        seconds=3,
    )
    assert result.outcome == "slow"
    assert result.seconds < 600


@pytest.mark.parametrize(
    ("mutant", "why"),
    [
        (fault("gone", "4 * x", "5 * x"), r"'4 \* x' 0 times"),
        (fault("more-than-once", "x", "y"), "2 times"),
        (Mutant("no-file", "", "stages/none.py", "a", "b", ("test_code.py",)), "no file stages/none.py"),
        (Mutant("no-tests", "", "stages/code.py", "2 * x", "x", ("test_none.py",)), "no tests tests/test_none.py"),
        (fault("no-test", "2 * x", "x", "test_code.py::test_twice"), "no tests tests/test_code.py::test_twice"),
    ],
)
def test_an_entry_that_does_not_fit_the_code_is_an_error_before_anything_runs(
    checkout: Path, mutant: Mutant, why: str
) -> None:
    with pytest.raises(ListError, match=why):
        tried(checkout, fault("wrong", "2 * x", "3 * x"), mutant)


def test_a_name_that_is_no_fault_is_refused() -> None:
    command = [sys.executable, "-m", "tests.mutants", "--only", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no room and no fault 'nonsense'" in done.stderr


def test_a_signal_leaves_no_copy_and_no_process(tmp_path: Path) -> None:
    """Sent while tests run: SIGTERM, which is made what Ctrl-C is."""
    command = [sys.executable, "-m", "tests.mutants", "--only", "model", "--workers", "1"]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        copy = tmp_path / "none"
        while not copy.exists():
            assert process.poll() is None
            time.sleep(0.1)
            copy = next(tmp_path.glob("tfcli-mutants-*/private-queries"), copy)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "stopped" in output
    assert list(tmp_path.iterdir()) == []
    running = [
        path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _environment(path.parent)
    ]
    assert running == []


def _environment(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:  # it has ended, or is somebody else's
        return b""
