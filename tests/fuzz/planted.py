"""Does the fuzz find what it is for? A defect of each kind is planted, and the fuzz of that kind has to find it.

python -m tests.fuzz.planted [--seconds 120] [--only NAME ...]

A defect replaces a function of the product in this process, before the forks: the product knows nothing of it. The table is
what to change where a function is renamed. Exit code 1 if a defect was not found in time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.fuzz.__main__ import a_world
from tests.fuzz.rules import try_case
from tests.fuzz.runner import KINDS, fuzz
from tests.fuzz.world import World

Make = Callable[[Any], Any]  # the function as it is -> the one that takes its place


@dataclass(frozen=True)
class Defect:
    """kind: of the cases that find it. functions: "module:name" or "module:class.name", each with what takes its place."""

    name: str
    kind: str
    functions: dict[str, Make]


def _raise_it(_: Any) -> Any:
    def explained(path: object, error: Exception, overrides: object) -> Exception:  # noqa: ARG001
        return error

    return explained


def _unchecked_device(_: Any) -> Any:
    def check(device: str) -> None:
        if device not in ("auto", "cpu", "cuda"):
            int(device.split(":")[1])

    return check


def _from_the_start(real: Any) -> Any:
    def load_state(folder: Any, state: Any, *more: Any, **named: Any) -> Any:
        result = real(folder, state, *more, **named)
        state.step = 0
        return result

    return load_state


def _no_sum(_: Any) -> Any:
    def check_sum(value: Any, *_: Any) -> Any:
        return {key: below for key, below in value.items() if key != "sha256"}

    return check_sum


def _stat(_: Any) -> Any:
    def check_size(folder: Any, entry: Any, fix: str) -> None:  # noqa: ARG001
        assert (folder / entry.path).stat().st_size == entry.bytes

    return check_size


DEFECTS = (
    Defect("the sums of records are not checked", "flip", {"stages.core.files:check_sum": _no_sum}),
    Defect("JSON that ends early is not caught", "cut", {"stages.core.files:read_json": lambda _: lambda path, *_: json.loads(path.read_bytes())}),
    Defect("shards are not compared with their sums", "swap", {"stages.artifacts.arrays:_compare": lambda _: lambda *_: None}),
    Defect("a lock follows a link", "link", {"stages.artifacts.lock:open_lock": lambda _: lambda path: path.open("a+")}),
    Defect("a file that is gone is no error of ours", "delete", {"stages.artifacts.manifest:check_size": _stat, "stages.core.system:system_failure": lambda _: lambda _: None}),
    Defect(
        "names may lead out of the folder",
        "names",
        {"stages.core.reading:safe_name": lambda _: lambda name: name, "stages.core.reading:inside": lambda _: lambda folder, name: folder / name},
    ),
    Defect("what is replaced is deleted whole", "foreign", {"stages.artifacts.removal:remove_artifact": lambda _: lambda folder, *_: shutil.rmtree(folder)}),
    Defect("a recipe's errors are not explained", "recipes", {"stages.recipe:explained": _raise_it}),
    Defect("a device is cut up before it is checked", "options", {"stages.core.device:check_device": _unchecked_device}),
    Defect("what a decoder raises is not caught", "pictures", {"stages.coders.pixels:_broken": lambda _: lambda _, error: KeyError(str(error))}),
    Defect("archives one after the other: the first alone is read", "tars", {"stages.sources.tar:_behind_zeros": lambda _: lambda _: None}),
    Defect("a broken line of a table raises what it likes", "tables", {"stages.sources.lines:line_error": lambda _: lambda *_: KeyError("line")}),
    Defect("a training that goes on forgets its step", "kill", {"stages.train_model.checkpointing:load_state": _from_the_start}),
    Defect("whatever is in a growing folder is ours", "stray", {"stages.artifacts.form:matcher": lambda _: lambda *_: lambda _: True}),
)  # fmt: skip


@contextmanager
def planted(defect: Defect) -> Iterator[None]:
    """The defect in every module that has imported the function. LookupError where there is no such function."""
    undo: list[tuple[Any, str, Any]] = []
    try:
        for where, make in defect.functions.items():
            module_name, _, name = where.partition(":")
            owner: Any = importlib.import_module(module_name)
            *classes, name = name.split(".")
            for each in classes:
                owner = getattr(owner, each)
            if not hasattr(owner, name):
                raise LookupError(f"{where} is not there: the table of tests/fuzz/planted.py is out of date")
            old = getattr(owner, name)
            new = make(old)
            owners = (
                [owner]
                if classes
                else [m for key, m in list(sys.modules.items()) if key.startswith(("stages", "tfcli")) and m]
            )
            for holder in owners:
                for key, value in list(vars(holder).items()):
                    if value is old:
                        undo.append((holder, key, old))
                        setattr(holder, key, new)
        yield
    finally:
        for holder, key, old in reversed(undo):
            setattr(holder, key, old)


def search(world: World, defect: Defect, seconds: float, seed: int = 0) -> tuple[str, int, float]:
    """The rule that found the defect ("" for none), after how many cases and seconds."""
    began, number, cases = time.monotonic(), 0, 0
    while (left := began + seconds - time.monotonic()) > 0:
        with planted(defect):
            report = fuzz(world, [defect.kind], left, seed, first=number, stop_at=1, folder=None)
        cases += report.counts.total()
        if not report.found:
            break
        case, finding = report.found[0]
        if try_case(world, case) is None:  # else it is a fault of the product, not the planted one
            return f"{finding.rule}: {finding.text}", cases, time.monotonic() - began
        number = case.number + 1
    return "", cases, time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.planted", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="for each defect")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", choices=list(KINDS))
    given = parser.parse_args()
    missed = 0
    with a_world() as world:
        for defect in DEFECTS:
            if given.only and defect.kind not in given.only:
                continue
            rule, cases, seconds = search(world, defect, given.seconds, given.seed)
            missed += not rule
            print(
                f"{defect.kind:9} {'found' if rule else 'MISSED'} in {cases:4} cases, {seconds:5.1f} s  {defect.name}  [{rule[:90]}]",
                flush=True,
            )
    print(f"{missed} of the planted defects were missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
