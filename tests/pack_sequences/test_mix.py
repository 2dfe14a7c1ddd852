"""Weights, the ratio of text to images, long documents and mirrored pictures; and draws that stay when others change."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.artifacts.latents import Grid
from stages.artifacts.manifest import open_artifact
from stages.artifacts.rows import Frames
from stages.artifacts.sequences import RowTable, Sequences
from stages.artifacts.tokens import SpecialTokens, Tokens
from stages.core.errors import ExitCode, TfcliError
from stages.core.seeds import hashed_uniform
from stages.pack_sequences.check import check_rows
from stages.pack_sequences.config import PackConfig
from stages.pack_sequences.mix import balanced, copies
from tests.builders import Story, make_all, make_latents, make_sequences, make_tokens
from tests.pack_sequences.test_pack import spelled


def pairs(count: int, source: str = "pictures") -> list[Story]:
    return [Story((f"picture {number}", None), source=source) for number in range(count)]


def texts(count: int, source: str = "books") -> list[Story]:
    return [Story((f"a line of text, number {number}",), fixed_order=True, source=source) for number in range(count)]


def times_by_document(folder: Path) -> Counter[int]:
    return Counter(Sequences.open(folder).split("train").documents[:, 3].tolist())


# draws


@given(st.lists(st.integers(0, 2**60), min_size=1, max_size=50, unique=True), st.integers(0, 2**62))
def test_the_draw_of_a_key_does_not_depend_on_the_others(keys: list[int], seed: int) -> None:
    together = hashed_uniform(np.array(keys), seed, "a", 1)
    assert ((together >= 0) & (together < 1)).all()
    for key, draw in zip(keys, together, strict=True):
        assert hashed_uniform(np.array([key]), seed, "a", 1)[0] == draw


def test_draws_are_even_and_differ_by_name() -> None:
    keys = np.arange(20_000)
    names: list[tuple[int, str, int]] = [(0, "a", 0), (0, "a", 1), (0, "b", 0), (1, "a", 0)]
    draws = [hashed_uniform(keys, seed, purpose, index) for seed, purpose, index in names]
    for one in draws:
        counts, _ = np.histogram(one, bins=20, range=(0, 1))
        assert abs(counts - 1000).max() < 150
    for number, one in enumerate(draws):
        for other in draws[:number]:
            assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_order_and_drops_stay_whatever_else_is_packed(tmp_path: Path) -> None:
    """Another row length, other documents beside, another weight: the draws of a document are its own."""

    def shown(name: str, stories: list[Story], **options: Any) -> dict[str, list[str | int]]:
        config = PackConfig(heldout_fraction=0, condition_dropout=0.3, caption_first=0.5, **options)
        folder = make_all(tmp_path / name, stories, config)
        coder = Tokens.open(tmp_path / name / "tokens").text_coder()
        table = Sequences.open(folder).split("train")
        found = {}
        for document, parts in spelled(table, coder):
            found[document] = ["text" if isinstance(part, str) else "image" for part in parts]
        return {f"d{number}": found[number] for number in range(60)}

    first = shown("a", pairs(60), row_length=64)
    assert {tuple(parts) for parts in first.values()} == {("text", "image"), ("image", "text"), ("image",)}
    assert shown("b", pairs(60), row_length=128) == first
    assert shown("c", pairs(60) + texts(30), row_length=64, weights={"books": 2.5}) == first


# weights


@given(st.lists(st.floats(0, 5), min_size=1, max_size=30), st.integers(0, 1000))
def test_copies_are_the_weight_on_average(weights: list[float], seed: int) -> None:
    given_weights = np.array(weights)
    keys = np.arange(len(weights))
    drawn = np.array([copies(given_weights, hashed_uniform(keys, seed, "w", number)) for number in range(400)])
    assert (abs(drawn - given_weights) < 1).all()
    assert np.allclose(drawn.mean(0), given_weights, atol=0.15)


def test_weights_by_source(tmp_path: Path) -> None:
    stories = pairs(40, "photos") + pairs(40, "drawings") + texts(40)
    config = PackConfig(
        row_length=64, heldout_fraction=0, passes=4, weights={"photos": 2.5, "books": 0.25, "drawings": 1}
    )
    folder = make_all(tmp_path, stories, config)
    assert Tokens.open(tmp_path / "tokens").content.sources == ["photos", "drawings", "books"]
    times = times_by_document(folder)
    assert {times[number] for number in range(40, 80)} == {4}
    assert {times[number] for number in range(40)} <= set(range(8, 13))
    assert sum(times[number] for number in range(40)) == pytest.approx(400, abs=25)
    assert sum(times[number] for number in range(80, 120)) == pytest.approx(40, abs=16)
    report = open_artifact(folder, "sequences").stats["laid_out_by_source"]
    assert report == {
        "photos": sum(times[n] for n in range(40)),
        "drawings": 160,
        "books": sum(times[n] for n in range(80, 120)),
    }


def test_a_weight_of_0_leaves_a_source_out_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    stories = pairs(10) + texts(10)
    folder = make_all(tmp_path / "a", stories, PackConfig(row_length=64, heldout_fraction=0, weights={"books": 0}))
    assert set(times_by_document(folder)) == set(range(10))
    with pytest.raises(TfcliError, match="no source fotos") as caught:
        make_all(tmp_path / "b", stories, PackConfig(row_length=64, weights={"fotos": 2}))
    assert caught.value.code == ExitCode.USAGE
    assert "pictures, books" in caught.value.fix
    nothing = {"books": 0.0, "pictures": 0.0}
    with pytest.raises(TfcliError, match="no documents to train on"):
        make_all(tmp_path / "c", stories, PackConfig(row_length=64, weights=nothing, heldout_fraction=0))


def test_late_weights_make_rows_of_their_own_for_the_end(tmp_path: Path) -> None:
    stories = pairs(40, "photos") + pairs(40, "drawings") + texts(40)
    plain = PackConfig(row_length=64, heldout_fraction=0.1, weights={"books": 2})
    config = plain.model_copy(update={"late_weights": {"drawings": 3, "photos": 0}, "late_passes": 2})
    usual, folder = make_all(tmp_path / "a", stories, plain), make_all(tmp_path / "b", stories, config)
    assert not (usual / "late").exists()
    assert Sequences.open(usual).content.late_rows == 0
    packed = Sequences.open(folder)
    assert np.array_equal(packed.split("train").ids, Sequences.open(usual).split("train").ids)  # not touched
    late = packed.split("late")
    assert packed.content.late_rows == len(late.ids) > 0
    heldout = set(packed.heldout_documents())
    times = Counter(late.documents[:, 3].tolist())
    assert set(times) == set(range(40, 120)) - heldout
    assert {times[number] for number in range(40, 80)} <= {0, 6}
    assert {times[number] for number in range(80, 120)} <= {0, 4}  # what is not named keeps its weight
    first, second = (set(map(bytes, late.ids[part])) for part in np.array_split(np.arange(len(late.ids)), 2))
    assert first != second
    report = open_artifact(folder, "sequences").stats
    assert report["late_rows"] == len(late.ids)
    assert report["late_by_source"]["photos"] == 0
    for wrong in ({"fotos": 2.0}, {"books": 0.0, "photos": 0.0, "drawings": 0.0}):
        with pytest.raises(TfcliError, match=r"no source fotos|no documents to train on"):
            make_all(tmp_path / f"c{len(wrong)}", stories, config.model_copy(update={"late_weights": wrong}))


# text : image


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.8, 5))
@settings(deadline=None)
def test_balanced_weights_have_the_ratio_and_raise_nothing(num_text: int, num_pairs: int, wanted: float) -> None:
    has_images = np.arange(num_text + num_pairs) >= num_text
    text = np.where(has_images, 7, 30)
    patches = np.where(has_images, 16, 0)
    weights = np.ones(len(text))
    found = balanced(weights, has_images, text, patches, wanted)
    assert (found <= 1 + 1e-12).all()
    assert (found[has_images] == 1).all() or (found[~has_images] == 1).all()
    assert (found * text).sum() / (found * patches).sum() == pytest.approx(wanted)


@pytest.mark.parametrize("stories", [pairs(300) + texts(300), pairs(600) + texts(60)])
def test_text_and_images_are_mixed_as_stated(tmp_path: Path, stories: list[Story]) -> None:
    plain = make_all(tmp_path / "plain", stories, PackConfig(row_length=128, heldout_fraction=0))
    config = PackConfig(row_length=128, heldout_fraction=0, text_to_image=3, passes=4)
    mixed = make_all(tmp_path / "mixed", stories, config)
    before, after = (open_artifact(folder, "sequences").stats for folder in (plain, mixed))
    assert abs(before["text_to_image"] - 3) > 0.3
    assert after["text_to_image"] == pytest.approx(3, rel=0.04)
    times = times_by_document(mixed)
    assert max(times.values()) == 4  # nothing is repeated within a pass
    some = [number for number in times.values() if number < 4]
    assert len(some) > 1.3 * sum(some) / 4  # other parts of the surplus in each pass


@pytest.mark.parametrize("stories", [pairs(20), texts(20)])
def test_a_ratio_that_no_mixture_has_is_an_error(tmp_path: Path, stories: list[Story]) -> None:
    with pytest.raises(TfcliError, match="cannot be reached") as caught:
        make_all(tmp_path, stories, PackConfig(row_length=64, heldout_fraction=0, text_to_image=40))
    assert caught.value.code == ExitCode.INPUT


# long documents

LONG = [
    *pairs(20),
    Story(("first ", None, " then ", None, " and " * 40, None), fixed_order=True),
    Story(("word " * 100, None)),
    Story(("word " * 100, None), fixed_order=True),
    Story(("more " * 100,), fixed_order=True),
]


@pytest.mark.parametrize(("text", "documents"), [("split", "truncate"), ("skip", "skip"), ("skip", "truncate")])
def test_long_documents_are_cut_or_left_out_as_stated(tmp_path: Path, text: Any, documents: Any) -> None:
    config = PackConfig(
        row_length=48,
        heldout_fraction=0,
        condition_dropout=0,
        caption_first=1,
        too_long_text=text,
        too_long_documents=documents,
    )
    folder = make_all(tmp_path, LONG, config)
    left_out = open_artifact(folder, "sequences").stats["left_out"]
    truncated = 2 if documents == "truncate" else 0
    cut = int(text == "split")
    assert (left_out["TRUNCATED"], left_out["CUT_INTO_PIECES"]) == (truncated, cut)
    assert left_out["TOO_LONG"] == 4 - truncated - cut
    table = Sequences.open(folder).split("train")
    coder = Tokens.open(tmp_path / "tokens").text_coder()
    shown = {document: parts for document, parts in spelled(table, coder) if document < 23}
    assert len(shown) == 20 + truncated
    entry = {int(row[3]): row for row in table.documents}
    if not truncated:
        return
    # the page ends where the row does, within a text, without eos
    assert shown[20][:4] == ["first ", 20, " then ", 21]
    assert " and " * 40 != shown[20][4] != ""
    assert str(" and " * 40).startswith(str(shown[20][4]))
    row, start, length = (int(value) for value in entry[20][:3])
    assert length == 48
    assert table.ids[row, start + length - 1] != coder.eos
    # the caption of a pair is cut, its picture stays, and so does its end
    assert shown[21][1] == 23
    assert str("word " * 100).startswith(str(shown[21][0]))
    row, start, length = (int(value) for value in entry[21][:3])
    assert length == 48
    assert table.ids[row, start + length - 1] == coder.eos
    assert 22 not in shown  # its picture lies behind a text that fills the row


# mirrored pictures


def test_half_of_the_images_come_mirrored_where_there_are_such(tmp_path: Path) -> None:
    latents = make_latents(tmp_path / "latents", pairs(200), mirror=True)
    tokens = make_tokens(tmp_path / "tokens", latents)
    config = PackConfig(row_length=64, heldout_fraction=0.2, passes=3)
    folder = make_sequences(tmp_path / "sequences", tokens, latents, config)
    sequences = Sequences.open(folder)
    train, heldout = sequences.split("train"), sequences.split("heldout")
    assert train.images[:, 4].mean() == pytest.approx(0.5, abs=0.08)
    assert (heldout.images[:, 4] == 0).all()
    assert len(heldout.images) > 10
    seen = {(int(row), int(grid)) for row, grid in train.images[:, 3:5]}
    assert len({row for row, _ in seen}) < len(seen)  # both variants of some over the passes


# the check


def rows() -> tuple[RowTable, SpecialTokens]:
    """A row of one document of 10 elements: bos, one id, boi, four patches, eoi, one id, eos; and a second one."""
    special_tokens = SpecialTokens(vocab_size=20, bos=1, eos=2, boi=3, eoi=4, pad=0)
    line = [1, 9, 3, 0, 0, 0, 0, 4, 9, 2]
    documents = np.array([[0, 0, 10, 0, 0, 0], [0, 10, 10, 1, 0, 0]])
    images = np.array([[0, 3, 4, 0, 0, 0], [0, 13, 4, 1, 0, 1]])
    table = RowTable(np.array([line + line + [0] * 4]), documents, images, np.array([0, 2]), np.array([0, 2]))
    return table, special_tokens


@pytest.mark.parametrize(
    ("array", "place", "value", "what"),
    [
        ("ids", (0, 1), 20, "out of range"),
        ("ids", (0, 1), -1, "out of range"),
        ("ids", (0, 2), 9, "without BOI"),
        ("ids", (0, 7), 9, "without EOI"),
        ("ids", (0, 1), 3, "BOI without"),
        ("ids", (0, 8), 4, "EOI without"),
        ("documents", (1, 1), 9, "overlap"),
        ("documents", (1, 2), 15, "crosses the end"),
        ("images", (0, 2), 3, "patches of its grid"),
        ("images", (1, 3), 2, "row of latents"),
        ("images", (1, 3), -1, "row of latents"),
        ("images", (1, 5), 0, "outside its document"),
        ("images", (1, 1), 3, "outside its document"),
    ],
)
def test_every_broken_rule_is_found(array: str, place: tuple[int, int], value: int, what: str) -> None:
    table, special_tokens = rows()
    check_rows(table, special_tokens, Frames(np.array([4]), rows=np.array([2])))
    getattr(table, array)[place] = value
    with pytest.raises(TfcliError, match=what) as caught:
        check_rows(table, special_tokens, Frames(np.array([4]), rows=np.array([2])))
    assert caught.value.code == ExitCode.BUG


def test_the_report_for_people_shows_lengths_as_bars(tmp_path: Path) -> None:
    folder = make_all(tmp_path, pairs(30) + texts(5), PackConfig(row_length=64, heldout_fraction=0))
    shown = (folder / "report.txt").read_text()
    assert "laid_out_by_source         30 pictures, 5 books" in shown
    assert "\n      8 to     12 " in shown
    assert "#####" in shown


def test_grids_know_their_mirror() -> None:
    assert Grid(name="a", height=1, width=1, rows=1, pictures=1).mirror is None
