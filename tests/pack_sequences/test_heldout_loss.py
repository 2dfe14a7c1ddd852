"""Documents that are held out to be judged, but on which no loss is measured, from the source to the rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from stages.artifacts.latents import DOCUMENTS, Latents
from stages.artifacts.sequences import Sequences
from stages.artifacts.tokens import FIXED_ORDER, HELDOUT, NO_LOSS, Tokens
from stages.core.errors import ExitCode, TfcliError
from stages.encode_images.cutting import _document_row
from stages.pack_sequences.config import PackConfig
from stages.sources.document import Document, TextSegment
from stages.sources.shapes.source import Shapes
from tests.builders import Story, make_all, make_latents, make_tokens

STORIES = [
    Story(("trained", None)),
    Story(("trained too", None), fixed_order=True),
    Story(("a loss", None), heldout=True),
    Story(("no loss", None), heldout=True, has_heldout_loss=False),
    Story(("none here", None), heldout=True, has_heldout_loss=False, fixed_order=True),
]
CONFIG = PackConfig(row_length=64, heldout_fraction=0)


def documents_of(sequences: Sequences, side: Literal["train", "heldout"]) -> set[int]:
    return set(sequences.split(side).documents[:, 3].tolist())


def test_documents_without_a_loss_are_held_out_and_in_no_row(tmp_path: Path) -> None:
    sequences = Sequences.open(make_all(tmp_path, STORIES, CONFIG))
    flags = Tokens.open(tmp_path / "tokens").array("flags").tolist()
    assert flags == [0, FIXED_ORDER, HELDOUT, HELDOUT | NO_LOSS, HELDOUT | NO_LOSS | FIXED_ORDER]
    assert list(sequences.heldout_documents()) == [2, 3, 4]
    assert documents_of(sequences, "train") == {0, 1}
    assert documents_of(sequences, "heldout") == {2}


def test_where_no_heldout_document_has_a_loss_there_is_no_heldout_row(tmp_path: Path) -> None:
    sequences = Sequences.open(make_all(tmp_path, [*STORIES[:2], *STORIES[3:]], CONFIG))
    assert sequences.content.heldout_rows == 0
    assert list(sequences.heldout_documents()) == [2, 3]


def test_latents_give_back_what_the_source_said(tmp_path: Path) -> None:
    """And a file without the field, as every source but one writes it, means that losses are measured."""
    folder = make_latents(tmp_path / "latents", STORIES)
    assert [document.has_heldout_loss for document in Latents.open(folder).documents()] == [
        True,
        True,
        True,
        False,
        False,
    ]
    lines = (folder / DOCUMENTS / "00000.jsonl").read_text().splitlines()
    assert ["has_heldout_loss" in line for line in lines] == [False, False, False, True, True]


def test_a_field_that_is_no_flag_is_refused(tmp_path: Path) -> None:
    folder = make_latents(tmp_path / "latents", STORIES)
    path = folder / DOCUMENTS / "00000.jsonl"
    path.write_text(path.read_text().replace('"has_heldout_loss": false', '"has_heldout_loss": 1.000'))
    with pytest.raises(TfcliError, match="is damaged") as caught:
        list(Latents.open(folder).documents())
    assert caught.value.code == ExitCode.ARTIFACT
    assert "has_heldout_loss" in str(caught.value.why)


def test_a_document_is_written_with_the_field_only_where_no_loss_is_measured() -> None:
    document = Document("key", (TextSegment("a text"),), heldout=True)
    row = _document_row(0, document)
    assert set(row) == {"key", "source", "group", "fixed_order", "heldout", "facts", "segments"}
    silent = _document_row(0, replace(document, has_heldout_loss=False))
    assert silent == {**row, "has_heldout_loss": False}
    assert list(json.loads(json.dumps(row))) == list(row)


def test_tokens_of_documents_with_a_loss_are_those_of_a_world_without_the_field(tmp_path: Path) -> None:
    plain = [replace(story, has_heldout_loss=True) for story in STORIES]
    found = []
    for name, stories in (("a", plain), ("b", STORIES)):
        (tmp_path / name).mkdir()
        make_latents(tmp_path / name / "latents", stories)
        tokens = Tokens.open(make_tokens(tmp_path / name / "tokens", tmp_path / name / "latents"))
        found.append({array: tokens.array(array).tolist() for array in ("ids", "segments", "offsets", "flags", "keys")})
    assert found[0].pop("flags") == [0, FIXED_ORDER, HELDOUT, HELDOUT, HELDOUT | FIXED_ORDER]
    found[1].pop("flags")
    assert found[0] == found[1]


def test_of_shapes_the_side_that_is_like_training_alone_has_a_loss() -> None:
    source = Shapes(
        pictures=2,
        heldout=2,
        heldout_things=2,
        heldout_alike=2,
        interleaved=2,
        heldout_interleaved=2,
        captions={"placed": 1},
    )
    with_loss = {d.key.rsplit("-", 1)[0] for d in source.documents() if d.heldout and d.has_heldout_loss}
    without = {d.key.rsplit("-", 1)[0] for d in source.documents() if not d.has_heldout_loss}
    assert with_loss == {"alike"}
    assert without == {"new-claim", "new-thing", "heldout-story"}
