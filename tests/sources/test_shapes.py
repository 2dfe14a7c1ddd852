"""The world of shapes: what is held out stays out, things are where they can be, and every side has the law that it states."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, combinations

import numpy as np
import pytest
from pydantic import ValidationError

from stages.core.seeds import numpy_generator
from stages.sources.document import Document
from stages.sources.shapes import source
from stages.sources.shapes.captions import KINDS, Kind
from stages.sources.shapes.claims import Claims, claims
from stages.sources.shapes.source import SHARES, Shapes, draw_pair
from stages.sources.shapes.world import (
    COLOURS,
    MAX_THINGS,
    PLACE_MARGIN,
    PLACES,
    SHAPES,
    SIZES,
    Thing,
    draw_scene,
    heldout_combinations,
    one_in_ten,
    region_of,
    scene_from_json,
    scene_to_json,
)
from tests.sources.shapes_drawn import documents, heldout, scenes_of, texts_of, training


def side(new: str | None) -> list[Document]:
    """Held-out pairs of one side."""
    return [document for document in heldout() if "new" in document.labels and document.labels["new"] == new]


def claims_in(document: Document) -> list[Claims]:
    """What is claimed by its caption, or by the text with which a story begins."""
    return [claimed for claimed in map(claims, texts_of(document)) if claimed is not None]


def keys_in(drawn: Iterable[Document]) -> list[str]:
    return list(chain.from_iterable(claimed.keys() for document in drawn for claimed in claims_in(document)))


def test_one_in_ten_combinations_is_held_out_and_every_pair_of_attributes_is_left() -> None:
    out = set(heldout_combinations())
    assert 0.05 < len(out) / (len(COLOURS) * len(SHAPES) * len(PLACES)) < 0.15
    left = {(c, s, p) for c in COLOURS for s in SHAPES for p in PLACES} - out
    assert {(c, s) for c, s, _ in left} == {(c, s) for c in COLOURS for s in SHAPES}
    assert {(c, p) for c, _, p in left} == {(c, p) for c in COLOURS for p in PLACES}
    assert {(s, p) for _, s, p in left} == {(s, p) for s in SHAPES for p in PLACES}


def test_training_never_shows_a_heldout_combination_wherever_the_thing_is() -> None:
    """Also in stories, and for things too close to a border for a caption to name their place."""
    unnamed = 0
    for document in training():
        for scene in scenes_of(document):
            for thing in scene.things:
                assert (thing.colour, thing.shape, region_of(thing.x, thing.y)) not in heldout_combinations()
                unnamed += thing.place is None
    assert unnamed > 100


def test_a_side_of_new_things_shows_and_asks_for_one_and_no_other_side_does() -> None:
    for document in heldout():
        scenes = scenes_of(document)
        new = [thing for scene in scenes for thing in scene.things if thing.heldout]
        if document.labels.get("new") != "thing":
            assert not new
            continue
        assert len(new) == 1
        (claimed,) = claims_in(document)
        assert (new[0].colour, new[0].shape, new[0].place) in [(t.colour, t.shape, t.place) for t in claimed.things]
    assert len(side("thing")) == 100


def test_no_training_text_states_what_a_heldout_caption_states() -> None:
    """Every text: captions of pairs, and what stories name before their first picture."""
    stated = set(keys_in(training()))
    in_stories = [document for document in training() if document.fixed_order and claims_in(document)]
    asked = keys_in(side("claim"))
    assert len(asked) >= 150
    assert len(in_stories) > 50
    assert stated.isdisjoint(asked)
    assert not any(one_in_ten(key) for key in stated)


def test_the_alike_side_states_only_what_training_may_state_and_alone_carries_the_losses() -> None:
    assert len(side(None)) == 60
    for document in side(None):
        assert all(claimed.may_be_trained for claimed in claims_in(document))
    for document in heldout():
        is_alike = "new" in document.labels and document.labels["new"] is None
        assert document.has_heldout_loss == is_alike
    assert all(document.has_heldout_loss and not document.heldout for document in training())


def test_documents_do_not_depend_on_how_many_there_are() -> None:
    counts = ("pictures", "heldout", "heldout_things", "heldout_alike", "interleaved", "heldout_interleaved")
    few = {document.key: document for document in documents(**dict.fromkeys(counts, 3))}
    many = {document.key: document for document in documents(**dict.fromkeys(counts, 6))}
    assert len(few) == 18
    assert set(few) < set(many)
    assert all(many[key] == document for key, document in few.items())
    other = {document.key: document for document in documents(**dict.fromkeys(counts, 3), seed=1)}
    assert all(other[key].labels != few[key].labels for key in few)


def test_no_two_sides_draw_the_same_documents() -> None:
    counts = ("pictures", "heldout", "heldout_things", "heldout_alike", "interleaved", "heldout_interleaved")
    scenes = [str(document.labels["scenes"]) for document in documents(**dict.fromkeys(counts, 8))]
    assert len(set(scenes)) == len(scenes) == 48


def test_things_stay_inside_and_apart() -> None:
    pairs = 0
    for document in (*training(), *heldout()):
        for scene in scenes_of(document):
            for thing in scene.things:
                radius = SIZES[thing.size]
                assert radius + 0.01 < thing.x < 1 - radius - 0.01
                assert radius + 0.01 < thing.y < 1 - radius - 0.01
            for one, other in combinations(scene.things, 2):
                gap = max(abs(one.x - other.x), abs(one.y - other.y)) - SIZES[one.size] - SIZES[other.size]
                assert gap > 0.05
                pairs += 1
    assert pairs > 2000


def test_positions_are_continuous_and_everywhere() -> None:
    """Most things across patches: no position comes twice, and every ninth of the reachable square has its share."""
    things = [t for document in training() if not document.fixed_order for t in scenes_of(document)[0].things]
    assert len({thing.x for thing in things}) > 0.95 * len(things)
    regions = Counter(thing.region for thing in things)
    assert set(regions) == set(PLACES)
    assert min(regions.values()) > 0.04 * len(things)


def test_a_place_is_named_only_clear_of_the_borders() -> None:
    rng = np.random.default_rng(0)
    named = 0
    for x, y in rng.uniform(0.1, 0.9, (2000, 2)).tolist():
        thing = Thing("circle", "red", "small", x, y)
        clear = min(abs(value - border) for value in (x, y) for border in (1 / 3, 2 / 3)) >= PLACE_MARGIN
        column, row = (("left", "center", "right")[int(3 * x)], ("top", "center", "bottom")[int(3 * y)])
        name = "-".join(part for part in (row, column) if part != "center") or "center"
        assert thing.region == name
        assert thing.place == (name if clear else None)
        named += clear
    assert 800 < named < 1800


@pytest.mark.parametrize("new", [None, "thing", "claim"])
@pytest.mark.parametrize("shares", [SHARES, {"related": 1.0}, {"counted": 0.9, "exact": 0.1}], ids=str)
def test_every_number_of_things_is_equally_likely(new: source.New | None, shares: dict[Kind, float]) -> None:
    count = 60 if new == "claim" else 160
    drawn = [draw_pair(numpy_generator(0, "test numbers", number), shares, 4, new) for number in range(count)]
    counts = np.bincount([len(pair.scene.things) for pair in drawn], minlength=5)
    assert counts[0] == 0
    expected = np.bincount(
        [1 + int(numpy_generator(0, "test numbers", n).integers(4)) for n in range(count)], minlength=5
    )
    assert counts.tolist() == expected.tolist()  # the number is drawn first, and nothing that follows rejects it
    assert expected[1:].min() > count / 8


def test_kinds_of_captions_come_in_the_shares_that_are_asked_for() -> None:
    """Of scenes of two things and more, which can have every kind; of single things, those that can be written of one."""
    by_number: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for document in training():
        if not document.fixed_order:
            by_number[len(scenes_of(document)[0].things) > 1][document.labels["caption"]] += 1
    of_one = {"placed", "coloured", "plain", "exact"}
    assert set(by_number[False]) == of_one
    for several, counts in by_number.items():
        possible = {kind: share for kind, share in SHARES.items() if several or kind in of_one}
        for kind, share in possible.items():
            expected = share / sum(possible.values())
            assert abs(counts[kind] / counts.total() - expected) < 0.035 + 0.1 * expected, (several, kind)
    assert sum(by_number[True].values()) > 1000


def test_more_than_half_of_the_captions_leave_something_open() -> None:
    kinds = Counter(document.labels["caption"] for document in training() if not document.fixed_order)
    assert kinds["placed"] < 0.4 * kinds.total()


def test_a_kind_without_a_share_is_not_written() -> None:
    drawn = [
        draw_pair(numpy_generator(0, "test", n), {"related": 2, "placed": 0, "plain": 1}, 4, None) for n in range(80)
    ]
    assert {pair.kind for pair in drawn} == {"related", "plain"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", range(1, MAX_THINGS + 1))
def test_every_side_has_documents_whatever_the_kinds(kind: Kind, most: int) -> None:
    """No caption of single things by colour or shape is held out, nor any count of two: another kind is written."""
    for new in ("claim", "thing", None):
        for number in range(2):
            pair = draw_pair(numpy_generator(0, f"test {new}", number), {kind: 1.0}, most, new)
            claimed = claims(pair.text)
            assert claimed is not None
            assert new != "claim" or claimed.is_heldout
            assert new != "thing" or pair.scene.has_new_thing


@pytest.mark.parametrize("shares", [{}, {"placed": 0}, {"placed": 1, "plain": -1}, {"poem": 1}])
def test_shares_that_say_nothing_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Shapes(captions=shares)


def test_scenes_survive_json() -> None:
    scenes = [draw_scene(numpy_generator(0, "test", number), 1 + number % 4) for number in range(20)]
    assert all(scene_from_json(scene_to_json(scene)) == scene for scene in scenes)


def test_scenes_with_alike_things_have_more_of_a_kind() -> None:
    def doubles(alike: float) -> int:
        drawn = [draw_scene(numpy_generator(0, "test alike", number), 3, alike=alike) for number in range(100)]
        return sum(len({thing.shape for thing in scene.things}) < 3 for scene in drawn)

    assert doubles(1.0) == 100
    assert doubles(0.0) < 80


def test_the_count_of_a_plan_is_that_of_the_documents() -> None:
    options = Shapes(pictures=30, heldout=3, heldout_things=4, heldout_alike=5, interleaved=40, heldout_interleaved=0)
    drawn = list(options.documents())
    assert options.count() == (len(drawn), sum(len(document.images) for document in drawn))


def test_the_same_thing_in_another_size_answers_the_same_claim() -> None:
    for document in side("claim")[:60]:
        (claimed,) = claims_in(document)
        sizes = [replace(claimed, things=tuple(replace(t, size=size) for t in claimed.things)) for size in SIZES]
        assert all(other.keys() == claimed.keys() for other in sizes)
