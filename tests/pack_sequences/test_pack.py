"""Packing by its laws: nothing is lost, nothing crosses a row, sides share no group, draws have their stated shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.artifacts.manifest import open_artifact
from stages.artifacts.sequences import RowTable, Sequences
from stages.artifacts.tokens import Tokens
from stages.coders.text import TextCoder
from stages.core.errors import ExitCode, TfcliError
from stages.core.seeds import hashed_uniform
from stages.pack_sequences.config import PackConfig
from stages.pack_sequences.fit import best_fit
from tests.builders import Story, make_all, make_latents, make_sequences, make_tokens

WORDS = ["a red circle", "blue", "one two three four five", "the small green cross is here", "x"]


@given(st.lists(st.integers(1, 50), max_size=300))
@settings(deadline=None)
def test_best_fit_overlaps_nothing_and_wastes_little(lengths: list[int]) -> None:
    rows, starts, num_rows = best_fit(np.array(lengths, dtype=np.int64), 50)
    used = np.zeros((num_rows, 50), dtype=int)
    for row, start, length in zip(rows, starts, lengths, strict=True):
        assert start + length <= 50
        used[row, start : start + length] += 1
    assert used.max(initial=0) <= 1
    assert used.sum() == sum(lengths)
    # Two rows that are at most half full would have been one.
    assert (used.sum(1) <= 25).sum() <= 1


def test_best_fit_takes_the_tightest_row() -> None:
    rows, starts, _ = best_fit(np.array([6, 8, 2]), 10)
    assert rows.tolist() == [0, 1, 1]
    assert starts.tolist() == [0, 0, 8]


def spelled(table: RowTable, coder: TextCoder) -> list[tuple[int, list[str | int]]]:
    """Each packed document as (document index, its parts: text or row of latents)."""
    found = []
    for entry, (row, start, length, document, _, _) in enumerate(table.documents.tolist()):
        images = {
            int(place): (int(count), int(latent))
            for r, place, count, latent, _, owner in table.images
            if owner == entry
        }
        parts: list[str | int] = []
        text: list[int] = []
        place = start
        while place < start + length:
            if place in images:
                parts += [coder.decode(text)] if text else []
                text = []
                parts.append(images[place][1])
                place += images[place][0]
                continue
            token = int(table.ids[row, place])
            if token not in (coder.bos, coder.eos, coder.boi, coder.eoi):
                text.append(token)
            place += 1
        parts += [coder.decode(text)] if text else []
        found.append((document, parts))
    return found


def stories(count: int, seed: int = 0) -> list[Story]:
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        word = WORDS[rng.integers(len(WORDS))] + f" {number}"
        kind = number % 4
        if kind < 2:
            made.append(Story((word, None)))
        elif kind == 2:
            made.append(Story(("first ", None, "then ", None, word), fixed_order=True))
        else:
            made.append(Story((word,), fixed_order=True))
    return made


def expected_parts(made: list[Story]) -> list[list[str | int]]:
    row, parts = 0, []
    for story in made:
        own: list[str | int] = []
        for part in story.parts:
            own.append(row if part is None else part)
            row += part is None
        parts.append(own)
    return parts


def test_patches_that_do_not_divide_the_latents_are_refused(tmp_path: Path) -> None:
    """As with a finished autoencoder, of which the recipe does not tell how far it shrinks."""
    with pytest.raises(TfcliError, match=r"pack.patch_side 3 does not fit") as caught:
        make_all(tmp_path, [Story(("a text", None))], PackConfig(row_length=64, patch_side=3))
    assert caught.value.code == ExitCode.USAGE


def test_every_document_comes_back_once_a_pass(tmp_path: Path) -> None:
    made = stories(60)
    folder = make_all(tmp_path, made, PackConfig(row_length=64, condition_dropout=0, passes=3, heldout_fraction=0.1))
    sequences = Sequences.open(folder)
    coder = Tokens.open(tmp_path / "tokens").text_coder()
    expected = expected_parts(made)
    heldout = set(sequences.heldout_documents())
    assert 0 < len(heldout) < 60
    train = spelled(sequences.split("train"), coder)
    kept = spelled(sequences.split("heldout"), coder)
    assert sorted(document for document, _ in kept) == sorted(heldout)
    assert sorted(document for document, _ in train) == sorted([d for d in range(60) if d not in heldout] * 3)
    orders = set()
    for document, parts in train + kept:
        if made[document].fixed_order:
            assert parts == expected[document]
        else:
            assert sorted(map(str, parts)) == sorted(map(str, expected[document]))
            orders.add(parts == expected[document])
    assert orders == {True, False}  # both orders occurred


def test_order_and_dropout_have_their_shares(tmp_path: Path) -> None:
    made = [Story((f"text {number}", None)) for number in range(1500)]
    config = PackConfig(row_length=256, caption_first=0.8, condition_dropout=0.1, heldout_fraction=0)
    table = Sequences.open(make_all(tmp_path, made, config)).split("train")
    dropped, image_first = table.documents[:, 4] == 1, table.documents[:, 5] == 1
    assert (image_first & ~dropped).mean() == pytest.approx(0.2, abs=0.04)
    assert dropped.sum() / (~image_first | dropped).sum() == pytest.approx(0.1, abs=0.04)
    assert (table.documents[dropped, 2] == 4 + 4).all()  # bos, boi, 4 patches, eoi, eos: no text is left
    assert dropped.sum() > 50


def test_a_fixed_order_stays_even_of_one_text_and_one_picture(tmp_path: Path) -> None:
    """Neither turned around nor without its text, whatever pairs of free order have."""
    made = [Story((f"text {n}", None) if n % 2 else (None, f"text {n}"), fixed_order=True) for n in range(60)]
    made += [Story((f"free {n}", None)) for n in range(60)]
    config = PackConfig(row_length=256, caption_first=0.5, condition_dropout=0.5, heldout_fraction=0)
    table = Sequences.open(make_all(tmp_path, made, config)).split("train")
    expected, orders = expected_parts(made), set()
    for document, parts in spelled(table, Tokens.open(tmp_path / "tokens").text_coder()):
        if made[document].fixed_order:
            assert parts == expected[document]
        else:
            orders.add((len(parts), isinstance(parts[0], str)))
    assert orders == {(1, False), (2, False), (2, True)}
    fixed = table.documents[:, 3] < 60
    assert not table.documents[fixed, 4].any()
    assert (table.documents[fixed, 5] == (table.documents[fixed, 3] % 2 == 0)).all()


def test_one_that_can_be_packed_is_held_out_whatever_failed(tmp_path: Path) -> None:
    """The lowest draw may belong to a document whose picture failed: held out, it would leave an empty side."""
    made = [Story((f"t{number}", None), bad=number % 2 == 0) for number in range(20)]
    latents = make_latents(tmp_path / "latents", made)
    tokens = make_tokens(tmp_path / "tokens", latents)
    lowest = set()
    for seed in range(8):
        config = PackConfig(row_length=64, heldout_fraction=1e-9)
        sequences = Sequences.open(make_sequences(tmp_path / f"{seed}", tokens, latents, config, seed))
        assert sequences.content.heldout_rows == 1
        assert [document % 2 for document in sequences.heldout_documents()] == [1]
        draws = hashed_uniform(Tokens.open(tokens).array("groups"), seed, "heldout")
        lowest.add(int(draws.argmin()) % 2)
    assert lowest == {0, 1}


def test_groups_are_never_split(tmp_path: Path) -> None:
    made = [Story((f"t{number}", None), group=f"g{number // 5}", heldout=number == 7) for number in range(200)]
    folder = make_all(tmp_path, made, PackConfig(row_length=64, heldout_fraction=0.2))
    heldout = set(Sequences.open(folder).heldout_documents())
    for start in range(0, 200, 5):
        assert len({number in heldout for number in range(start, start + 5)}) == 1
    assert set(range(5, 10)) <= heldout
    assert len(heldout) < 120


def test_failed_images_and_long_documents_are_left_out_and_counted(tmp_path: Path) -> None:
    made = [Story((f"t {n}", None)) for n in range(20)] + [
        Story(("bad", None), bad=True),
        Story(("many", *[None] * 12), fixed_order=True),
        Story(("word " * 200,), fixed_order=True),
    ]
    folder = make_all(tmp_path, made, PackConfig(row_length=48, heldout_fraction=0))
    report = open_artifact(folder, "sequences").stats
    assert report["left_out"] == {"IMAGE_FAILED": 1, "EMPTY": 0, "TOO_LONG": 1, "CUT_INTO_PIECES": 1, "TRUNCATED": 0}
    sequences = Sequences.open(folder)
    coder = Tokens.open(tmp_path / "tokens").text_coder()
    pieces = [parts for document, parts in spelled(sequences.split("train"), coder) if document == 22]
    assert len(pieces) > 2
    assert sorted("".join(str(part) for parts in pieces for part in parts)) == sorted("word " * 200)
    documents = sequences.split("train").documents
    own = documents[documents[:, 3] == 22]
    starts = [int(sequences.split("train").ids[row, start]) for row, start in own[:, :2]]
    assert sum(token == coder.bos for token in starts) == 1


def test_nothing_fits_is_an_error_with_the_shortest_length(tmp_path: Path) -> None:
    made = [Story(("a long enough text " * 4, None)) for _ in range(4)]
    with pytest.raises(TfcliError, match=r"0 of 4 documents fit 16 elements \(shortest \d+\)"):
        make_all(tmp_path, made, PackConfig(row_length=16))


def refused(folder: Path, made: list[Story], config: PackConfig) -> TfcliError:
    with pytest.raises(TfcliError) as caught:
        make_all(folder, made, config)
    assert caught.value.code == ExitCode.INPUT
    return caught.value


def test_where_nothing_is_left_the_reasons_are_counted_and_the_most_of_them_fixed(tmp_path: Path) -> None:
    long = Story(("a long enough text " * 4, None))
    failed = [Story((f"a picture {number}", None), bad=True) for number in range(3)]
    nothing = refused(tmp_path / "a", failed, PackConfig(row_length=64))
    assert nothing.what == "0 of 3 documents can be packed"
    assert nothing.why == "left out: 3 IMAGE_FAILED"
    assert "pictures" in nothing.fix
    mixed = refused(tmp_path / "b", [*failed, long], PackConfig(row_length=16))
    assert "IMAGE_FAILED" in mixed.why
    assert "1 TOO_LONG" in mixed.why
    assert "row_length" not in mixed.fix
    length = int(mixed.what.rpartition("shortest ")[2].rstrip(")"))
    assert length > 16  # of those that are too long, not of those that failed
    shorter = refused(tmp_path / "c", [failed[0], long, long], PackConfig(row_length=16))
    assert f"pack.row_length to {length} or more" in shorter.fix


def test_where_nothing_is_left_for_training_it_says_which_setting_took_it(tmp_path: Path) -> None:
    made = [Story((f"thing {number}", None), heldout=number > 1) for number in range(6)]
    failed = Story(("gone", None), bad=True)
    of_source = refused(tmp_path / "a", [*made[2:], failed], PackConfig(row_length=64, heldout_fraction=0))
    assert of_source.why == "of 4 documents that can be packed 4 are held out; before that: 1 IMAGE_FAILED"
    assert of_source.fix == "let the source hold out fewer documents"
    share = refused(tmp_path / "b", made, PackConfig(row_length=64, heldout_fraction=0.999999))
    assert share.fix == "lower pack.heldout_fraction, or add documents"
    weights = PackConfig(row_length=64, heldout_fraction=0, weights={"pictures": 0})
    both = refused(tmp_path / "c", made, weights)
    assert "6 documents that can be packed 4 are held out, and pack.weights leaves out the other 2" in both.why
    assert both.fix == "raise one of pack.weights"
    late = PackConfig(row_length=64, heldout_fraction=0, late_weights={"pictures": 0})
    assert refused(tmp_path / "d", made, late).fix == "raise one of pack.late_weights"


def test_the_same_twice_and_another_seed_differs(tmp_path: Path) -> None:
    latents = make_latents(tmp_path / "latents", stories(40))
    tokens = make_tokens(tmp_path / "tokens", latents)
    config = PackConfig(row_length=64)
    digests = [
        open_artifact(make_sequences(tmp_path / name, tokens, latents, config, seed), "sequences").digest
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_marks_in_text_are_plain_text(tmp_path: Path) -> None:
    made = [Story(("look <boi> here </s> and <pad> <eoi>", None)) for _ in range(8)]
    folder = make_all(tmp_path, made, PackConfig(row_length=128, heldout_fraction=0, condition_dropout=0))
    table = Sequences.open(folder).split("train")
    coder = Tokens.open(tmp_path / "tokens").text_coder()
    assert (table.ids == coder.boi).sum() == len(table.images) == 8
    assert spelled(table, coder)[0][1].count("look <boi> here </s> and <pad> <eoi>") == 1
