"""All cases, by number."""

from __future__ import annotations

from tests.bad_inputs import pictures
from tests.bad_inputs.lab import Case

BAD_INPUTS: list[Case] = sorted([*pictures.CASES], key=lambda case: case.number)
