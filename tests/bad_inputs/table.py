"""All cases by number, and how a row of the document looks."""

from __future__ import annotations

import html
from pathlib import Path

from tests.bad_inputs import faults, models, pictures, places, settings, texts
from tests.bad_inputs.faults import Held
from tests.bad_inputs.lab import Case, Outcome

DOCUMENT = Path(__file__).parents[2] / "docs" / "errors.md"
BAD_INPUTS: list[Case] = sorted(
    [*pictures.CASES, *texts.CASES, *models.CASES, *settings.CASES, *places.CASES], key=lambda case: case.number
)
FAULTS: list[Case] = faults.CASES
HELD: list[Held] = faults.HELD


def row(case: Case, outcome: Outcome) -> str:
    """The line of the document for what a case really gave."""
    lines = [_code(line) for line in outcome.lines]
    lines += [f"({case.note})"] if case.note else []
    return f"| {case.number} | {_cell(case.name)} | {'<br>'.join(lines)} | {outcome.code} |"


def held_row(held: Held) -> str:
    """The line of a fault that other tests hold."""
    names = ", ".join(f"`{test.replace('::test_', ': ')}`" for test in held.tests)
    return f"| {held.number} | {_cell(held.name)} | {held.happens} | {names} |"


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|").replace("[", "\\[").replace("$", "\\$")


def _code(text: str) -> str:
    """A line as code. A name of 250 letters is cut in the middle."""
    text = text if len(text) <= 240 else f"{text[:120]} ... {text[-100:]}"
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"
