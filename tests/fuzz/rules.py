"""What a case must not do: the rules, and a case with its steps and commands."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.child import Kill, Outcome
from tests.fuzz.steps import Step
from tests.fuzz.world import COMMON, LIMIT, STAGES, Place, World, content_sums

CODES = {0, 2, 3, 4, 5, 6, 75, 130}
LEARNED = ("autoencoder", "checkpoint")  # a finished one is replaced only by --replace or --force


@dataclass(frozen=True)
class Finding:
    """rule: the one that was broken. text: how, in a line."""

    rule: str
    text: str
    outcome: Outcome


@dataclass
class Case:
    """kind, seed, number: make the case again. world: "finished", "half" or "bare". digests: whether results must be those
    of the reference. check: what else must hold after the commands. kill: for each command, the moment of its end."""

    kind: str
    seed: int
    number: int
    steps: list[Step]
    commands: list[list[str]]
    world: str = "finished"
    codes: set[int] = field(default_factory=lambda: CODES)
    digests: bool = True
    check: Callable[[Place, list[Outcome]], str | None] | None = None
    kills: dict[int, Kill] = field(default_factory=dict)
    limit: float = LIMIT
    about: str = ""


def stage(name: str, *more: str) -> list[str]:
    """The command line of a stage, or of a whole run."""
    recipe = ["recipe.toml"] if name == "run" else ["-r", "recipe.toml"]
    return [name, *recipe, "--work", "work", *COMMON, *more]


def try_case(world: World, case: Case) -> Finding | None:
    """Do the steps and the commands in a place of its own; the first rule that is broken."""
    place = world.copy(case.world)
    try:
        for step in case.steps:
            step.apply(place)
        return _run(world, case, place)
    finally:
        world.remove(place)


def _run(world: World, case: Case, place: Place) -> Finding | None:
    outcomes = []
    for index, command in enumerate(case.commands):
        before, seals = place.outside(), place.seals()
        good = {kind for kind in LEARNED if kind in seals and _is_reference(world, place, kind)}
        outcome = place.run(*command, limit=case.limit, kill=case.kills.get(index))
        outcomes.append(outcome)
        broken = None if index in case.kills else _of_process(case, command, outcome)
        broken = broken or _outside(before, place, is_copy=command[:2] == ["recipe", "copy"])
        if broken is None and outcome.rc == 0 and case.digests:
            broken = _result(world, place, seals)
        if broken is None and not {"--force", "--replace"} & set(command):
            broken = _replaced(place, seals, good)
        if broken is not None:
            return Finding(*broken, outcome)
    if case.check is not None and (text := case.check(place, outcomes)) is not None:
        return Finding("check", text, outcomes[-1])
    return None


def _of_process(case: Case, command: list[str], outcome: Outcome) -> tuple[str, str] | None:
    if outcome.rc is None:
        return "hang", f"did not end in {case.limit:.0f} s"
    if outcome.rc < 0:
        return "signal", f"ended by signal {-outcome.rc}"
    for words in ("Traceback (most recent call last)", "internal error", "a bug in tfcli"):
        if words in outcome.stderr and not (words.startswith("Traceback") and "--debug" in command):
            return "traceback", f"rc {outcome.rc}, {words!r} in what it said"
    if outcome.rc not in case.codes:
        return "code", f"rc {outcome.rc}"
    if "out of memory" in outcome.stderr:
        return "memory", "it used up 3 GiB"
    if outcome.rc and "error: " not in outcome.stderr:
        return "silent", f"rc {outcome.rc} without an error line"
    return None


def _outside(before: dict[str, object], place: Place, *, is_copy: bool) -> tuple[str, str] | None:
    """before: of Place.outside. is_copy: of a recipe, which may make a new file in the current folder."""
    after = place.outside()
    if is_copy:
        after = {name: value for name, value in after.items() if name in before or not name.endswith(".toml")}
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    changed = [name for name in changed if not re.match(r"home/\.(cache|config)(/|$)", name)]
    return ("outside", f"touched outside the work folder: {', '.join(changed[:4])}") if changed else None


def _result(world: World, place: Place, before: dict[str, tuple[int, int]]) -> tuple[str, str] | None:
    """Whatever was made must be what an undamaged run makes: by its digest, and byte by byte."""
    made = [kind for kind, seal in place.seals().items() if before.get(kind) != seal]
    digests = place.digests()
    for kind in made:
        if digests[kind] != world.reference[kind]:
            return (
                "result",
                f"{kind} was made with another digest: {digests[kind][:12]}, not {world.reference[kind][:12]}",
            )
        if content_sums(place.work / kind) != world.contents[kind]:
            return "result", f"{kind} was made with the right digest and other bytes"
    return None


def _is_reference(world: World, place: Place, kind: str) -> bool:
    """Whether the files that hold what was learned are as they were; its manifest may be damaged."""
    folder = place.work / kind
    files = {name: folder / name for name in world.contents[kind]}
    return all(
        path.is_file() and not path.is_symlink() and _sum(path) == world.contents[kind][name]
        for name, path in files.items()
    )


def _sum(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def _replaced(place: Place, before: dict[str, tuple[int, int]], good: set[str]) -> tuple[str, str] | None:
    after = place.seals()
    for kind in good:
        if after.get(kind) != before[kind]:
            return (
                "replaced",
                f"a finished {kind} with whole weights was replaced or deleted without --replace or --force",
            )
    return None


def later_than(kind: str) -> list[str]:
    """The kinds that come after `kind`."""
    kinds = list(STAGES.values())
    return kinds[kinds.index(kind) + 1 :]
