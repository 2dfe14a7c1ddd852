"""Write docs/errors.md from what tfcli says today: `python -m tests.bad_inputs.write_table` or `make table`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.bad_inputs.lab import Case, Shelf, try_case
from tests.bad_inputs.table import BAD_INPUTS, DOCUMENT, FAULTS, HELD, held_row, row

HEAD = """# Errors

What tfcli says of bad inputs and faults. This page is written by `make table` from real runs: `tests/bad_inputs/` has every row. After a
change of a message run it again and look at the difference.

An error has up to three lines on standard error: what (with the path), why, and the fix. Exit codes: 2 usage or recipe, 3 input cannot be
used, 4 artifact damaged or mismatched, 5 environment, 75 and 130 stopped with the work kept. 0 means that the run completes: what it left
out is in `latents/errors.jsonl` with a reason code and is counted at the end; `counted` is in `stats.notes` of the manifest. After a
failure no artifact has its final name that did not have it before. No row shows a traceback.

## Bad inputs
"""
COLUMNS = "\n| | input | what it says | exit code |\n|---|---|---|---|\n"
HELD_HEAD = """
## Faults that no single command shows

| | fault | what happens | tests, below `tests/` |
|---|---|---|---|
"""


def main() -> None:
    """Run all cases and write the document."""
    with tempfile.TemporaryDirectory() as folder:
        shelf = Shelf(Path(folder).resolve() / "shelf")
        bad = _rows(BAD_INPUTS, Path(folder).resolve() / "bad", shelf)
        faults = _rows(FAULTS, Path(folder).resolve() / "faults", shelf)
    text = HEAD + COLUMNS + bad + "\n## Faults\n" + COLUMNS.replace("input", "fault") + faults
    DOCUMENT.write_text(text + HELD_HEAD + "".join(f"{held_row(held)}\n" for held in HELD))
    sys.stdout.write(f"{DOCUMENT}\n")


def _rows(cases: list[Case], folder: Path, shelf: Shelf) -> str:
    return "".join(f"{row(case, try_case(case, folder / str(n), shelf))}\n" for n, case in enumerate(cases))


if __name__ == "__main__":
    main()
