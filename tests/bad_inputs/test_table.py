"""Every bad input and fault of the tables: exit code, words, no traceback, nothing half made; and the document says the same."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.bad_inputs.lab import Case, Shelf, try_case
from tests.bad_inputs.table import BAD_INPUTS, DOCUMENT, FAULTS, HELD, held_row, row

TESTS = Path(__file__).parents[1]
CASES = [*BAD_INPUTS, *FAULTS]
LINES = DOCUMENT.read_text().splitlines() if DOCUMENT.exists() else []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_case(case: Case, tmp_path: Path, shelf: Shelf) -> None:
    outcome = try_case(case, tmp_path / "lab", shelf)
    assert outcome.code == case.code, outcome.stderr
    for words in case.says:
        assert any(words in line for line in outcome.lines), outcome.lines
    assert row(case, outcome) in LINES, (
        "docs/errors.md says something else: run 'make table' and look at the difference"
    )


def test_the_document_has_a_row_for_each_case_and_no_other() -> None:
    rows = [line for line in LINES if line.startswith("| ") and line[2].isdigit()]
    assert len(rows) == len(CASES) + len(HELD)
    assert {held_row(held) for held in HELD} < set(rows)


def test_every_number_of_the_lists_has_a_row() -> None:
    assert {case.number for case in BAD_INPUTS} >= {*range(1, 37), 38, 39, 40, 41}
    assert {row.number for row in [*FAULTS, *HELD]} == {*range(1, 21), *range(24, 28), 29, *range(30, 38), 39}


def test_names_of_cases_are_their_own() -> None:
    assert max(Counter(case.id for case in CASES).values()) == 1


def test_the_tests_that_rows_point_to_are_there() -> None:
    named = [test for held in HELD for test in held.tests] + [test for case in CASES for test in case.held]
    assert named
    for test in named:
        file, _, function = test.partition("::")
        tree = ast.parse((TESTS / file).read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
