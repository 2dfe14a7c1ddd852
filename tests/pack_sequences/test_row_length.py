"""pack.row_length = "auto": the rule, what is stored of it, and that a number gives what it always gave."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stages.artifacts.context import StageContext
from stages.artifacts.folder import building
from stages.artifacts.sequences import REPORT, Sequences
from stages.core.events import Event, Note
from stages.core.runtime import Runtime
from stages.pack_sequences.config import PackConfig
from stages.pack_sequences.row_length import CHOICES, row_length_for
from stages.pack_sequences.stage import run
from tests.builders import Story, make_latents, make_sequences, make_tokens, stamp

# Captions of up to 40 words: documents of up to some 100 elements.
STORIES = [Story((f"a text about {'the thing and ' * (number % 10)}{number}", None)) for number in range(60)]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([30] * 500, 256),
        ([212], 256),  # one in a row: 83 %
        ([130] * 40, 512),  # one in a row of 256 leaves half of it, three in one of 512 a quarter
        ([180] * 40, 1024),  # 70 % of 256 and of 512, 88 % of 1,024
        ([30] * 198 + [300], 512),
        ([30] * 199 + [300], 256),  # one in 200 may be longer
        ([1400] * 9, 2048),  # none is 75 % full: 68 % of either, and the smaller is taken
        ([30] * 5 + [5000], 4096),  # none holds it
        ([], 256),
    ],
)
def test_the_smallest_that_holds_the_documents_and_is_full(lengths: list[int], expected: int) -> None:
    assert row_length_for(np.array(lengths, dtype=np.int64)).length == expected


def test_the_length_does_not_depend_on_how_many_there_are() -> None:
    rng = np.random.default_rng(0)
    few = rng.integers(20, 90, 40)
    found = [row_length_for(lengths) for lengths in (few, np.tile(few, 50), rng.choice(few, 80_000))]
    assert {each.length for each in found} == {256}
    assert found[0].fill == pytest.approx(found[2].fill, abs=0.02)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """latents and tokens."""
    work = tmp_path_factory.mktemp("made")
    make_tokens(work / "tokens", make_latents(work / "latents", STORIES))
    return work


def packed(work: Path, name: str, config: PackConfig) -> tuple[Sequences, list[str]]:
    events: list[Event] = []
    inputs = {kind: work / kind for kind in ("tokens", "latents")}
    with building(work / name, stamp("sequences", "pack", inputs, work / name), Runtime()) as build:
        run(pack=config, **inputs, context=StageContext(build, Runtime(events.append), 0))
    return Sequences.open(work / name), [event.text for event in events if isinstance(event, Note)]


def test_the_rows_are_those_of_the_number_that_is_derived(made: Path) -> None:
    auto, notes = packed(made, "auto", PackConfig(row_length="auto"))
    number, others = packed(made, "number", PackConfig(row_length=256))
    longest = int(auto.split("train").documents[:, 2].max())
    assert auto.content.row_length == 256
    assert notes[0] == f"row length 256: the longest document has {longest} elements"
    assert notes[1:] == others
    assert auto.content == number.content
    files = [{file.path: file.sha256 for file in each.manifest.files} for each in (auto, number)]
    assert {path for path in files[0] if files[0][path] != files[1][path]} == {REPORT, "report.txt"}
    report = json.loads((auto.folder / REPORT).read_bytes())
    derived = report.pop("row_length")
    assert (derived["length"], derived["documents"], derived["longer"], derived["longest"]) == (256, 60, 0, longest)
    assert report == json.loads((number.folder / REPORT).read_bytes())


def test_a_document_that_is_longer_is_named_in_the_note(tmp_path: Path) -> None:
    stories = [*(Story((f"a {number}", None)) for number in range(250)), Story(("b " * 700, None))]
    latents = make_latents(tmp_path / "latents", stories)
    make_tokens(tmp_path / "tokens", latents)
    sequences, notes = packed(tmp_path, "sequences", PackConfig(row_length="auto"))
    assert sequences.content.row_length == 256
    assert notes[0].startswith("row length 256: 1 of 251 documents are longer, the longest has ")
    assert sequences.manifest.stats["left_out"]["TOO_LONG"] == 1


def test_texts_that_are_split_and_failed_pictures_do_not_count(tmp_path: Path) -> None:
    pairs = [Story((f"a {number}", None)) for number in range(20)]
    texts = [Story(("once upon a time " * 200,), fixed_order=True), Story(("bad " * 400, None), bad=True)]
    latents = make_latents(tmp_path / "latents", [*pairs, *texts])
    tokens = make_tokens(tmp_path / "tokens", latents)
    split, skip = (
        Sequences.open(
            make_sequences(tmp_path / how, tokens, latents, PackConfig(row_length="auto", too_long_text=how))
        )
        for how in ("split", "skip")
    )
    assert split.content.row_length == 256
    assert split.manifest.stats["left_out"]["CUT_INTO_PIECES"] == 1
    assert skip.content.row_length > 256
    assert skip.manifest.stats["row_length"]["documents"] == 21
    alone = make_latents(tmp_path / "alone", texts[:1])
    tokens = make_tokens(tmp_path / "words", alone)
    config = PackConfig(row_length="auto", heldout_fraction=0)
    assert Sequences.open(make_sequences(tmp_path / "text", tokens, alone, config)).content.row_length in CHOICES[1:]
