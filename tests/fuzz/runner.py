"""The loop: cases of all kinds in turn until the time is over, findings made small and written down."""

from __future__ import annotations

import random
import shlex
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.fuzz import damage, inputs, kills, strays, words
from tests.fuzz.rules import Case, Finding, try_case
from tests.fuzz.world import World

Maker = Callable[[World, random.Random, int, int], Case]
KINDS: dict[str, Maker] = {
    "flip": damage.flip,
    "cut": damage.cut,
    "swap": damage.swap,
    "link": damage.link,
    "delete": damage.delete,
    "names": damage.names,
    "foreign": damage.foreign,
    "recipes": words.recipes,
    "options": words.options,
    "pictures": inputs.pictures,
    "tars": inputs.tars,
    "tables": inputs.tables,
    "kill": kills.kill,
    "stray": strays.stray,
}
FINDINGS = Path("fuzz-findings")


@dataclass
class Report:
    """counts: cases of each kind. codes: of the last command of each. found: case and finding."""

    counts: Counter[str] = field(default_factory=Counter)
    codes: dict[str, Counter[int | None]] = field(default_factory=dict)
    found: list[tuple[Case, Finding]] = field(default_factory=list)
    seconds: float = 0.0


def make_case(world: World, kind: str, seed: int, number: int) -> Case:
    """The case of a kind, a seed and a number: always the same one on the same world."""
    return KINDS[kind](world, random.Random(f"{kind}-{seed}-{number}"), seed, number)


def fuzz(
    world: World,
    kinds: list[str],
    seconds: float,
    seed: int,
    *,
    first: int = 0,
    stop_at: int = 20,
    cases: int = 1 << 60,
    say: Callable[[str], None] = print,
    folder: Path | None = FINDINGS,
) -> Report:
    """Try cases for `seconds`, or until `stop_at` findings or `cases` of each kind. folder: where findings are written, None for
    nowhere."""
    report, began, number = Report(), time.monotonic(), first
    while time.monotonic() - began < seconds and len(report.found) < stop_at and number < first + cases:
        for kind in kinds:
            case = make_case(world, kind, seed, number)
            finding = try_case(world, case)
            report.counts[kind] += 1
            if finding is not None:
                if folder is not None:
                    case, finding = smaller(world, case, finding)
                    say(describe(case, finding, write_down(folder, case, finding)))
                report.found.append((case, finding))
            if time.monotonic() - began >= seconds or len(report.found) >= stop_at:
                break
        number += 1
    report.seconds = time.monotonic() - began
    return report


def smaller(world: World, case: Case, finding: Finding) -> tuple[Case, Finding]:
    """The case without the steps that it does not take, as long as the same rule is broken."""
    if finding.rule == "hang" or case.kills:
        return case, finding
    for step in list(case.steps):
        without = replace(case, steps=[other for other in case.steps if other is not step])
        found = try_case(world, without)
        if found is not None and found.rule == finding.rule:
            case, finding = without, found
    return case, finding


def steps_of(case: Case) -> list[str]:
    """The case as lines of shell, in the project's folder of a copy of the world."""
    lines = [f"# in a copy of the {case.world} world; HOME is the folder above"]
    lines += [step.shell(number) for number, step in enumerate(case.steps)]
    for index, command in enumerate(case.commands):
        lines.append(f"tfcli {shlex.join(command)}" + ("   # killed" if index in case.kills else ""))
    return [*lines, *([f"# {case.about}"] if case.about else [])]


def write_down(folder: Path, case: Case, finding: Finding) -> Path:
    """A folder with the steps, the data that they write, and what the command said."""
    place = folder / f"{case.kind}-{case.seed}-{case.number}"
    place.mkdir(parents=True, exist_ok=True)
    again = f"python -m tests.fuzz --only {case.kind} --seed {case.seed} --case {case.number}"
    lines = [f"# {finding.rule}: {finding.text}", f"# again: {again}", *steps_of(case)]
    (place / "steps.sh").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape") + b"\n")
    for number, step in enumerate(case.steps):
        if step.op == "write":
            (place / f"step-{number}.data").write_bytes(step.data)
    said = f"rc {finding.outcome.rc}, {finding.outcome.seconds:.2f} s\n{finding.outcome.stderr}"
    (place / "said.txt").write_text(said, "utf-8", "replace")
    return place


def describe(case: Case, finding: Finding, place: Path) -> str:
    """A block for the terminal."""
    last = [line for line in finding.outcome.stderr.splitlines() if line.strip()][-4:]
    lines = [
        f"FINDING {case.kind}, seed {case.seed}, case {case.number}: {finding.rule}: {finding.text} (rc {finding.outcome.rc})",
        *(f"    {line[:300]}" for line in steps_of(case)),
        *(f"    | {line[:200]}" for line in last),
        f"    written to {place}",
    ]
    return "\n".join(lines).encode("utf-8", "replace").decode()
