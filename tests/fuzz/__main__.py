"""`make fuzz SECONDS=600`: random damage, links, names, settings, command lines, inputs and kills against tfcli.

python -m tests.fuzz --seconds 600 --seed 0 [--only KIND ...] [--case N]

A case is a kind, a seed and a number. It gets a copy of a small work folder (world.py), does its steps (steps.py), runs its
command lines in forked processes (child.py) and is held to the rules (rules.py): an exit code of ours, no traceback, no hang,
nothing touched outside the work folder, and whatever is made with exit code 0 has the bytes of an undamaged run. Exit code 1
if a rule was broken; each finding is written below fuzz-findings/ with the steps that show it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fuzz.child import warm_up
from tests.fuzz.rules import try_case
from tests.fuzz.runner import FINDINGS, KINDS, describe, fuzz, make_case, write_down
from tests.fuzz.world import World


@contextmanager
def a_world() -> Iterator[World]:
    """A world of its own in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="tfz-"))
    try:
        warm_up()
        yield World(folder).make()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--only", action="append", choices=list(KINDS), help="may be repeated")
    parser.add_argument("--case", type=int, help="this case alone")
    parser.add_argument("--stop-at", type=int, default=20, help="findings after which it ends")
    given = parser.parse_args()
    kinds = given.only or list(KINDS)
    with a_world() as world:
        if given.case is not None:
            return _one(world, kinds[0], given.seed, given.case)
        print(f"seed {given.seed}, {len(kinds)} kinds, {given.seconds:.0f} s", flush=True)
        report = fuzz(
            world, kinds, given.seconds, given.seed, stop_at=given.stop_at, say=lambda text: print(text, flush=True)
        )
    for kind in kinds:
        num_found = sum(case.kind == kind for case, _ in report.found)
        print(f"{kind:10} {report.counts[kind]:6} cases  {num_found} findings")
    print(f"{len(report.found)} findings in {report.counts.total()} cases, {report.seconds:.0f} s")
    return 1 if report.found else 0


def _one(world: World, kind: str, seed: int, number: int) -> int:
    case = make_case(world, kind, seed, number)
    finding = try_case(world, case)
    if finding is None:
        print("no finding")
        return 0
    print(describe(case, finding, write_down(FINDINGS, case, finding)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
