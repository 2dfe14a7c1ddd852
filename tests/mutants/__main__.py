"""`make mutants`: faults of the method, planted one at a time, and the test that sees each.

python -m tests.mutants [--only ROOM or NAME ...] [--workers N] [--seconds N]

A fault is a piece of text in place of another, in a copy of the code (runner.py; the lists are rooms.py and the files that it
names). Exit code 1 if no test sees one of them, or if an entry of the list does not fit the code.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from tests.mutants.mutant import ListError
from tests.mutants.rooms import ROOMS
from tests.mutants.runner import Result, run_mutants

ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", metavar="ROOM|NAME", help=f"{', '.join(ROOMS)}, or a fault's name")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="tried at the same time")
    parser.add_argument("--seconds", type=float, default=300.0, help="limit for each")
    given = parser.parse_args()
    wanted = set(given.only or ROOMS)
    known = {*ROOMS, *(mutant.name for mutants in ROOMS.values() for mutant in mutants)}
    if unknown := sorted(wanted - known):
        parser.error(f"there is no room and no fault {unknown[0]!r}")
    chosen = [each for room, mutants in ROOMS.items() for each in mutants if {room, each.name} & wanted]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves no copies and no processes
    try:
        results = run_mutants(chosen, ROOT, workers=given.workers, seconds=given.seconds, report=_report)
    except ListError as error:
        print(f"the list does not fit the code: {error}")
        return 1
    except KeyboardInterrupt:
        print("stopped; the checkout was not touched")
        return 130
    return _conclusion(results)


def _report(result: Result) -> None:
    by = f"by {result.test}" if result.outcome == "seen" else f"in {' '.join(result.mutant.tests)}"
    print(f"{result.outcome:6} {result.seconds:6.1f} s  {result.mutant.name:34} {by}", flush=True)


def _conclusion(results: list[Result]) -> int:
    """What was not seen, in full, and the exit code."""
    missed = [result for result in results if result.outcome != "seen"]
    for result in missed:
        print(f"\n{result.outcome}: {result.mutant.name} ({result.mutant.file}): {result.mutant.what}")
        if result.outcome != "unseen":
            print(result.output)
    print(f"\n{len(results) - len(missed)} of {len(results)} faults are seen, {len(missed)} are not")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
