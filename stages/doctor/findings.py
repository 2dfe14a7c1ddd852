"""What a checkup finds, and how grave it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Gravity = Literal["stops", "problem", "remark"]
GRAVITIES: tuple[Gravity, ...] = ("stops", "problem", "remark")
MAX_EXAMPLES = 3


@dataclass(frozen=True)
class Finding:
    """stops: a run would end with an error. problem: it would run, and the result would suffer. remark: good to know.

    code: upper-case, for scripts. number: how many things it is about. examples: where, as the user names them; not yet made
    fit to print.
    """

    code: str
    gravity: Gravity
    what: str
    fix: str = ""
    number: int = 1
    examples: tuple[str, ...] = ()


def by_gravity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The gravest first: what stops a run in the order in which it was found, the others by how many things they are about."""
    return tuple(
        sorted(findings, key=lambda one: (GRAVITIES.index(one.gravity), -one.number if one.gravity != "stops" else 0))
    )


def share_text(number: int, total: int) -> str:
    """`12 of 400 (3 %)`."""
    percent = 100 * number / total if total else 0.0
    shown = f"{percent:.0f}" if percent >= 1 or number == 0 else "less than 1"
    return f"{number:,} of {total:,} ({shown} %)"


@dataclass
class Sighting:
    """How often something was seen, and the first places."""

    number: int = 0
    examples: tuple[str, ...] = ()

    def add(self, example: str) -> None:
        self.number += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples = (*self.examples, example)
