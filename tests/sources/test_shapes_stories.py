"""Stories: every text says exactly what changes, the pictures carry the rest, and held-out changes are never trained."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from stages.sources.document import Document
from stages.sources.shapes.claims import OPPOSITE, ClaimedThing, Claims, after_turn, after_two, claims
from stages.sources.shapes.drawing import draw
from stages.sources.shapes.judge import claim_of, judge, see
from stages.sources.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Scene, Thing
from tests.sources.shapes_drawn import heldout, scenes_of, texts_of, training

BEFORE = ClaimedThing("circle", "red", "small", at=(0.2, 0.3))
OTHER = ClaimedThing("cross", "blue", "large", "top", at=(0.7, 0.8))


def stories(kind: str, *, held: bool = False) -> list[Document]:
    return [document for document in (heldout() if held else training()) if document.labels.get("story") == kind]


def things_of(document: Document) -> list[Thing]:
    return [scene.things[0] for scene in scenes_of(document)]


def expected_after(document: Document, number: int) -> ClaimedThing | None:
    """What the text before picture `number` asks for, from the pictures before it."""
    things, text = [claim_of(thing) for thing in things_of(document)], texts_of(document)[number]
    if document.labels["story"] == "two":
        return after_two(things[0], things[1], text)
    return after_turn(things[number - 1], text)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", ["turns", "two"])
def test_every_text_is_understood_and_true_of_the_picture_that_follows_alone(kind: str, held: bool) -> None:
    """It holds for the thing that comes next and for none of the pictures before."""
    changes = 0
    for document in stories(kind, held=held):
        assert document.fixed_order
        assert len(texts_of(document)) == len(document.images) == len(scenes_of(document))
        for number in range(2 if kind == "two" else 1, len(document.images)):
            expected = expected_after(document, number)
            assert expected is not None, texts_of(document)[number]
            claimed, things = Claims((expected,)), things_of(document)
            assert judge(claimed, [things[number]]).all_right
            before = things[:2] if kind == "two" else things[number - 1 : number]
            if kind == "turns":
                assert not judge(claimed, [before[0]]).all_right
            assert None not in (expected.shape, expected.colour, expected.size)
            assert expected.at or expected.place
            changes += 1
    assert changes >= (15 if held else 100)


def test_the_drawn_picture_of_a_story_is_judged_right_and_that_before_it_is_not() -> None:
    for document in [*stories("turns")[:40], *stories("two")[:20]]:
        number = len(document.images) - 1
        expected = expected_after(document, number)
        assert expected is not None
        before, after = (see(draw(scenes_of(document)[n], 64)) for n in (0 if number == 1 else 1, number))
        assert judge(Claims((expected,)), after).all_right
        if document.labels["story"] == "turns":
            assert not judge(Claims((expected,)), before).all_right


def test_all_that_the_text_does_not_change_stays_where_and_what_it_was() -> None:
    kinds: Counter[str] = Counter()
    for document in stories("turns"):
        things = things_of(document)
        for before, after in pairwise(things):
            changed = {name for name in ("shape", "colour", "size") if getattr(before, name) != getattr(after, name)}
            if (before.x, before.y) != (after.x, after.y):
                changed.add("place")
                assert after.place not in (None, before.region)
                assert max(abs(before.x - after.x), abs(before.y - after.y)) >= 0.2
            assert len(changed) == 1
            kinds[changed.pop()] += 1
    assert min(kinds.values()) > 0.15 * kinds.total()  # 4 kinds: a size is as frequent as a colour, but near the edge
    assert len(kinds) == 4


def test_most_stories_leave_to_the_picture_what_the_thing_is() -> None:
    """The text names nothing of the first thing, or what a caption for training may name of it."""
    named = 0
    for held in (False, True):
        for document in [*stories("turns", held=held), *stories("two", held=held)]:
            for text, thing in zip(texts_of(document)[:1], things_of(document), strict=False):
                claimed = claims(text)
                if claimed is None:
                    assert text == "first this: "
                    continue
                assert claimed.may_be_trained
                assert judge(claimed, [thing]).all_right
                named += 1
    assert named < 0.35 * len(
        [*stories("turns"), *stories("two"), *stories("turns", held=True), *stories("two", held=True)]
    )


def test_heldout_changes_are_never_trained_and_heldout_stories_have_no_other() -> None:
    """A change: the thing (colour, shape, region) and what is said of it."""

    def named(thing: Thing) -> str:
        return f"{thing.colour} {thing.shape} {thing.region}"

    def changes(held: bool) -> set[str]:
        turns = {
            f"{named(thing)} {text}"
            for document in stories("turns", held=held)
            for thing, text in zip(things_of(document), texts_of(document)[1:], strict=False)
        }
        two = {
            " ".join([named(things_of(document)[0]), named(things_of(document)[1]), texts_of(document)[2]])
            for document in stories("two", held=held)
        }
        return turns | two

    assert len(changes(True)) > 40
    assert changes(True).isdisjoint(changes(False))


def test_heldout_stories_are_as_long_as_those_for_training() -> None:
    long = [sum(len(document.images) == 3 for document in stories("turns", held=held)) for held in (True, False)]
    assert 0.25 < long[0] / len(stories("turns", held=True)) < 0.75
    assert 0.4 < long[1] / len(stories("turns")) < 0.6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("then it turns blue: ", replace(BEFORE, colour="blue")),
        ("Then it  becomes large.", replace(BEFORE, size="large")),
        ("then it becomes a cross:", replace(BEFORE, shape="cross")),
        ("then it moves to the top left:", replace(BEFORE, place="top-left", at=None)),
        ("then it moves to the top-left", replace(BEFORE, place="top-left", at=None)),
        ("then it turns pink:", None),
        ("then it turns blue and becomes large:", None),
        ("then it becomes blue:", None),
        ("then it turns large:", None),
        ("then it moves to top:", None),
        ("it turns blue:", None),
        ("then the first turns blue:", None),
        ("then it turns blue: then it turns red", None),
    ],
)
def test_a_turn_is_read_whole_or_not_at_all(text: str, expected: ClaimedThing | None) -> None:
    assert after_turn(BEFORE, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("then the first in the colour of the second: ", replace(BEFORE, colour="blue")),
        ("then the second in the colour of the first: ", replace(OTHER, colour="red")),
        ("then the first in the size of the second:", replace(BEFORE, size="large")),
        ("then the second with the shape of the first:", replace(OTHER, shape="circle")),
        ("then the first at the place of the second:", replace(BEFORE, place="top", at=(0.7, 0.8))),
        ("then the second at the place of the first:", replace(OTHER, place=None, at=(0.2, 0.3))),
        ("then the first in the colour of the first:", None),
        ("then the first in the colour of the third:", None),
        ("then the first in the colour of second:", None),
        ("the first in the colour of the second:", None),
        ("then the first in the weight of the second:", None),
        ("then the first in the colour of the second and large:", None),
    ],
)
def test_what_one_thing_takes_from_another_is_read_whole_or_not_at_all(
    text: str, expected: ClaimedThing | None
) -> None:
    assert after_two(BEFORE, OTHER, text) == expected


def test_the_third_picture_needs_both_others() -> None:
    """It is neither of the two that are given, but for a thing that only gives what the other has."""
    for document in stories("two"):
        first, second, third = things_of(document)
        changed = first if texts_of(document)[2].startswith("then the first") else second
        assert third != changed
    assert len(stories("two")) > 100


def test_every_relation_has_its_opposite() -> None:
    assert all(OPPOSITE[OPPOSITE[name]] == name != OPPOSITE[name] for name in OPPOSITE)
    for name, opposite in OPPOSITE.items():
        scene = Scene((Thing("circle", "red", "small", 0.2, 0.2), Thing("cross", "blue", "small", 0.8, 0.8)))
        given = [f"a red circle {relation} a blue cross" for relation in (name, opposite)]
        turned = [f"a blue cross {relation} a red circle" for relation in (opposite, name)]
        verdicts = [judge(claims(text), scene.things).relations_right for text in given]
        assert sorted(verdicts) == [False, True]
        assert [judge(claims(text), scene.things).relations_right for text in turned] == verdicts
        keys = [claimed.keys() for text in (given[0], turned[0]) if (claimed := claims(text))]
        assert keys[0] == keys[1]


def test_names_of_one_kind_are_no_names_of_another() -> None:
    """Otherwise "becomes large" could be a shape."""
    words = [*SHAPES, *COLOURS, *SIZES, *PLACES]
    assert len(set(words)) == len(words)
