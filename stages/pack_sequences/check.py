"""Every row that was packed is checked before it is written: a broken rule is never the input's fault."""

from __future__ import annotations

from stages.artifacts.rows import Frames
from stages.artifacts.sequences import RowTable
from stages.artifacts.tokens import SpecialTokens
from stages.core.errors import ExitCode, TfcliError


def check_rows(table: RowTable, special_tokens: SpecialTokens, frames: Frames) -> None:
    """Raise TfcliError (BUG) where a row breaks a rule of `stages/artifacts/rows.py`."""
    broken = table.broken_rule(special_tokens, frames)
    if broken is not None:
        raise TfcliError(f"packing made a row in which {broken.what}", why="a bug in tfcli", code=ExitCode.BUG)
