"""How many single-bit flips of a finished work folder change a result that ends with exit code 0?

python -m tests.fuzz.flips --count 200 --seed 0

Each flip is tried twice: `tfcli verify` alone, and each stage that reads the artifact alone, without verify, after what it makes
was taken away. A table counts by artifact; files for people, which no digest covers, are counted apart. Exit code 1 if a flip
changed a result.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from dataclasses import dataclass, field

from tests.fuzz.__main__ import a_world
from tests.fuzz.rules import Case, stage, try_case
from tests.fuzz.steps import Step
from tests.fuzz.world import READERS, STAGES, World, volatile_files


@dataclass
class Row:
    """Counts of the flips of one artifact. refused: at least one stage that reads it ended with an error and none did worse."""

    flips: int = 0
    verified: int = 0
    refused: int = 0
    same: int = 0
    changed: int = 0
    broken: list[str] = field(default_factory=list)


def try_flip(world: World, path: str, bit: int, row: Row) -> None:
    """One flip: by verify, and by each stage that reads the artifact."""
    kind = path.split("/")[1]
    row.flips += 1
    place = world.copy("finished")
    try:
        Step("flip", path, bit).apply(place)
        row.verified += place.run("verify", f"work/{kind}").rc != 0
    finally:
        world.remove(place)
    verdicts = [_by_stage(world, reader, path, bit, row) for reader in READERS[kind]]
    worst = next(verdict for verdict in ("changed", "refused", "same") if verdict in verdicts)
    setattr(row, worst, getattr(row, worst) + 1)


def _by_stage(world: World, reader: str, path: str, bit: int, row: Row) -> str:
    """What the stage made of it: "changed", "refused" or "same"."""
    codes = []
    made = STAGES[reader]
    own = (
        path.split("/")[1] == made
    )  # samples and scores are read by no other stage: the same one looks whether they are fresh
    steps = [Step("flip", path, bit), *([] if own else [Step("delete", f"work/{made}")])]
    case = Case("flips", 0, 0, steps, [stage(reader)], check=lambda _, outcomes: codes.append(outcomes[0].rc))
    finding = try_case(world, case)
    if finding is not None:
        row.broken.append(f"bit {bit} of {path}, tfcli {reader}: {finding.rule}: {finding.text}")
        return "changed" if finding.rule == "result" else "refused"
    return "same" if codes == [0] else "refused"


def draw(world: World, count: int, seed: int) -> list[tuple[str, int, bool]]:
    """Files of all artifacts alike, a bit of each, and whether the file is one for people."""
    rng = random.Random(f"flips-{seed}")
    place = world.finished
    volatile = {kind: volatile_files(place.work / kind) for kind in STAGES.values()}
    files = [path for kind in STAGES.values() for path in sorted((place.work / kind).rglob("*")) if path.is_file()]
    files = [path for path in files if path.stat().st_size]
    drawn = []
    for _ in range(count):
        path = rng.choice(files)
        kind = path.relative_to(place.work).parts[0]
        people = path.relative_to(place.work / kind).as_posix() in volatile[kind]
        drawn.append((path.relative_to(place.project).as_posix(), rng.randrange(8 * path.stat().st_size), people))
    return drawn


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.flips", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows: dict[str, Row] = {}
    with a_world() as world:
        for path, bit, people in draw(world, given.count, given.seed):
            try_flip(world, path, bit, rows.setdefault("for people" if people else path.split("/")[1], Row()))
    print(f"{'artifact':12} {'flips':>6} {'verify':>7} {'refused':>8} {'same':>5} {'changed':>8}")
    totals: Counter[str] = Counter()
    for name in [*STAGES.values(), "for people"]:
        row = rows.get(name, Row())
        print(f"{name:12} {row.flips:6} {row.verified:7} {row.refused:8} {row.same:5} {row.changed:8}")
        if name != "for people":
            totals.update({key: getattr(row, key) for key in ("flips", "verified", "refused", "same", "changed")})
    shown = [
        f"{totals[key]:{width}}"
        for key, width in (("flips", 6), ("verified", 7), ("refused", 8), ("same", 5), ("changed", 8))
    ]
    print(f"{'all of them':12} {' '.join(shown)}   (those for people left out)")
    broken = [line for row in rows.values() for line in row.broken]
    print(*broken, sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
