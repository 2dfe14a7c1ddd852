"""A packed row as spans: they tile the row, and say what lies there."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from stages.artifacts.sequences import Sequences
from stages.core.errors import ExitCode, TfcliError
from stages.inspection.rows import row_spans
from stages.pack_sequences.config import PackConfig
from tests.builders import Story, make_all
from tests.pack_sequences.test_pack import stories


def test_spans_tile_every_row_and_tell_its_documents(tmp_path: Path) -> None:
    made = [*stories(24), Story(("two <boi> marks", None))]
    config = PackConfig(row_length=64, heldout_fraction=0.2, condition_dropout=0.3)
    folder = make_all(tmp_path, made, config)
    sequences = Sequences.open(folder)
    kinds, keys, texts = set(), set(), set()
    for side in ("train", "heldout"):
        table = sequences.split(side)  # type: ignore[arg-type]
        for row in range(len(table.ids)):
            spans = row_spans(folder, side, row)  # type: ignore[arg-type]
            assert spans[0].start == 0
            for one, other in pairwise(spans):
                assert one.start + one.length == other.start
            assert spans[-1].start + spans[-1].length == 64
            assert all(span.length == 4 for span in spans if span.kind == "image")
            kinds |= {span.kind for span in spans}
            keys |= {span.document for span in spans}
            texts |= {span.shown for span in spans if span.kind == "text"}
    assert kinds == {"bos", "eos", "boi", "eoi", "text", "image", "padding"}
    assert {f"d{number}" for number in range(25)} <= keys
    assert "two <boi> marks" in texts or made[-1].parts[0] not in texts


def test_a_row_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    folder = make_all(tmp_path, stories(8), PackConfig(row_length=64, heldout_fraction=0))
    last = len(Sequences.open(folder).split("train").ids) - 1
    for row in (-1, last + 1):
        with pytest.raises(TfcliError, match="no row") as caught:
            row_spans(folder, "train", row)
        assert caught.value.code == ExitCode.USAGE
        assert f"from 0 to {last}" in caught.value.fix
