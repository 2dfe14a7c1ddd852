"""Captions and their reader: what is written is understood and true, and what is not understood whole is no claim."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from stages.core.seeds import numpy_generator
from stages.sources.shapes.captions import KINDS, caption
from stages.sources.shapes.claims import ClaimedThing, Claims, claims
from stages.sources.shapes.drawing import draw
from stages.sources.shapes.judge import exactly_once, judge, judge_caption, see
from stages.sources.shapes.world import COLOURS, RELATION_MARGIN, SHAPES, Scene, Thing, draw_scene
from tests.sources.shapes_drawn import captioned

RED_CIRCLE = Thing("circle", "red", "large", 0.2, 0.2)
RED_CROSS = Thing("cross", "red", "small", 0.8, 0.2)
BLUE_SQUARE = Thing("square", "blue", "small", 0.5, 0.8)
RED_CIRCLE_BELOW = replace(RED_CIRCLE, y=0.8, size="small")
TWO = (RED_CIRCLE, BLUE_SQUARE)


def test_every_caption_of_every_kind_is_understood_and_true_of_its_scene() -> None:
    """Of the scene, of the things seen as they are, and under the reading of a picture."""
    kinds: Counter[str] = Counter()
    for kind, scene, text in captioned(60):
        verdict = judge_caption(text, scene)
        assert verdict.understood, text
        assert verdict.claims_true, (text, scene)
        assert judge(claims(text), scene.things).all_right, (text, scene)
        assert verdict.complete or kind not in ("placed", "related", "coloured"), text
        assert not verdict.complete or kind not in ("plain", "partial") or len(scene.things) == 0, text
        assert all(exactly_once(claims(text), scene.things)), text
        kinds[kind] += 1
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) > 40
    assert kinds.total() > 1200


def test_every_kind_of_caption_is_true_of_the_drawn_picture() -> None:
    kinds: Counter[str] = Counter()
    for kind, scene, text in captioned(3):
        assert judge(claims(text), see(draw(scene, 64))).all_right, (text, scene)
        kinds[kind] += 1
    assert set(kinds) == set(KINDS)


def test_no_caption_is_true_of_a_scene_with_a_thing_more_or_fewer_or_other() -> None:
    """Judged as a picture, where a caption names all that is there: a thing doubled, left out, or of another colour and shape."""
    rng = np.random.default_rng(0)
    caught: Counter[str] = Counter()
    for kind, scene, text in captioned(20):
        claimed = claims(text)
        assert claimed is not None
        thing, rest = scene.things[0], scene.things[1:]
        if not claimed.is_open:
            assert not judge(claimed, (*scene.things, thing)).right, text
            assert not judge(claimed, rest).right, text
            caught["number"] += 1
        other = replace(
            thing,
            colour=next(colour for colour in COLOURS if colour not in {t.colour for t in scene.things}),
            shape=str(rng.choice([shape for shape in SHAPES if shape != thing.shape])),
        )
        if all(each.colour and each.shape for each in claimed.things) and not claimed.is_open:
            assert not judge(claimed, (other, *rest)).right, text
            assert not judge_caption(text, Scene((other, *rest))).claims_true
            caught[kind] += 1
    assert caught["number"] > 300
    assert len(caught) > 4


def test_no_thing_near_a_border_is_named_by_place_and_no_relation_is_close() -> None:
    near, related = 0, 0
    for _, scene, text in captioned(60):
        claimed = claims(text)
        assert claimed is not None
        places = [each.place for each in claimed.things if each.place]
        assert not Counter(places) - Counter(thing.place for thing in scene.things), text
        near += bool(places) and any(thing.place is None for thing in scene.things)
        if len(claimed.relations) == 1 and len(scene.things) == 2:
            ((_, name, _),) = claimed.relations
            one, other = scene.things
            apart = abs(one.x - other.x) if name in ("left of", "right of") else abs(one.y - other.y)
            assert apart > RELATION_MARGIN, text
            related += 1
    assert near > 20
    assert related > 30


@pytest.mark.parametrize(
    "text",
    ["", " ", "a red", "red circle circle", "a red circle in the", "a red circle and", "the top-left", "a pink circle",
     "a red circle left of", "qwerty", "a red circle, a blue", "first", "first this:", "a red circle a blue square",
     "a circle red", "a a circle", "two circle", "two", "two red", "a circles", "five circles", "one two circles",
     "two circles on the left", "a circle and and a square", "a circle,, a square", "left of a circle", "and a circle",
     "a circle above", "a circle above a square above a cross", "a circle is a square", "a circle near a square",
     "a circle and left of a square", "a red circle above a cross and a square and left of a triangle",
     "nothing else", "a circle, nothing", "a circle, nothing red else", "nothing red", "no triangle", "other things",
     "a circle, no", "a circle, no red", "a circle, no thing", "a circle, not red", "a circle, all", "all red",
     "a red circle, all red", "two circles, all pink", "a circle and other things, all red",
     "two circles, all red and a square", "two circles, all red, all blue", "two circles, all red, nothing else",
     "a circle, nothing else and a square", "a circle, nothing else, nothing else", "a circle, nothing else, no cross",
     "a circle and other things, nothing else", "a circle and other things and other things", "a circle and more things",
     "a circle at the middle", "a circle in the top-center", "a small small circle", "a red small circle",
     "there is", "there is there is a circle", "a circle. a square", "a circle; a square", "a circle or a square",
     "then it turns blue", "a circlea square", "acircle", "a red circle!"],
)  # fmt: skip
def test_what_is_not_understood_whole_is_no_claim(text: str) -> None:
    assert claims(text) is None
    verdict = judge_caption(text, Scene(TWO))
    assert (verdict.understood, verdict.claims_true, verdict.complete) == (False, False, False)
    assert not judge(claims(text), TWO).objects_right
    assert exactly_once(claims(text), TWO) == []


def test_random_words_of_the_language_are_understood_only_where_they_are_a_caption() -> None:
    """A caption with a word left out, doubled or in another order is either no claim or one with as many nouns."""
    rng = np.random.default_rng(0)
    refused = 0
    nouns = {*SHAPES, "thing", *(f"{shape}s" for shape in SHAPES), "crosses", "things"}
    for _, _, text in captioned(15):
        words = text.split()
        place, how = int(rng.integers(len(words))), int(rng.integers(3))
        if how == 0:
            words.pop(place)
        elif how == 1:
            words.insert(place, words[place])
        else:
            words[place], words[place - 1] = words[place - 1], words[place]
        claimed = claims(" ".join(words))
        if claimed is None:
            refused += 1
            continue
        count = {"two": 2, "three": 3, "four": 4}
        stated = 0
        for part in " ".join(words).replace(",", " and").split(" and "):
            if part in ("other things", "nothing else") or part.startswith(("no ", "nothing ", "all ")):
                stated += part == "other things"
                continue
            stated += sum(
                next((count[word] for word in part.split() if word in count), 1)
                for noun in part.split()
                if noun in nouns
            )
        assert len(claimed.things) == stated, " ".join(words)
    assert refused > 100


def test_variations_of_wording_mean_the_same() -> None:
    plain = claims("a small red circle in the top left and a blue square at the bottom")
    assert plain is not None
    assert plain.things[0] == ClaimedThing("circle", "red", "small", "top-left")
    for text in (
        "A small red circle at the top left, and a blue square on the bottom.",
        "there is a small red circle  in the top left and the blue square in the bottom",
        "first a small red circle at the top-left, a blue square at the bottom: ",
        "one small red circle at the top left and blue square at the bottom",
    ):
        assert claims(text) == plain
    assert claims("a red circle to the left of a blue square") == claims("a red circle left of a blue square")
    assert claims("a red circle is left of a blue square") == claims("a red circle left of a blue square")
    assert claims("two circles, all of them red") == claims("two circles, all red")
    assert claims("two crosses") == claims("a cross and a cross")


def test_a_second_relation_is_one_of_the_first_thing() -> None:
    star = claims("a red circle left of a blue square and above a green cross")
    pairs = claims("a red circle left of a blue square and a circle above a green cross")
    assert star is not None
    assert star.relations == ((0, "left of", 1), (0, "above", 2))
    assert pairs is not None
    assert pairs.relations == ((0, "left of", 1), (2, "above", 3))


def is_true(text: str, *things: Thing) -> tuple[bool, bool]:
    """Of a picture of the things, whose caption names all that is there; of the scene as a caption that may leave some out."""
    return judge(claims(text), things).right, judge_caption(text, Scene(things)).claims_true


@pytest.mark.parametrize(
    ("text", "things", "of_picture", "of_scene"),
    [
        ("a red circle", TWO, False, True),
        ("a red circle, nothing else", TWO, False, False),
        ("a red circle, nothing else", (RED_CIRCLE,), True, True),
        ("a red circle and other things", (RED_CIRCLE,), False, False),
        ("a red circle and other things", TWO, False, False),
        ("a red circle and other things", (*TWO, RED_CROSS), True, True),
        ("a red circle and another thing", (RED_CIRCLE,), False, False),
        ("a red circle and another thing", TWO, True, True),
        ("a red circle and another thing", (*TWO, RED_CROSS), False, True),
        ("a circle and a square, no cross", TWO, True, True),
        ("a circle and a thing, no square", TWO, False, False),
        ("a circle, no square", TWO, False, False),
        ("a red circle and another thing, nothing blue", TWO, False, False),
        ("a red circle and another thing, nothing green", TWO, True, True),
        ("a red circle and another thing, no blue circle", TWO, True, True),
        ("two things, all red", (RED_CIRCLE, RED_CROSS), True, True),
        ("two things, all red", TWO, False, False),
        ("two things, all red", (RED_CIRCLE, RED_CROSS, BLUE_SQUARE), False, False),
        ("a circle and a cross, all red", (RED_CIRCLE, RED_CROSS), True, True),
        ("two red circles", (RED_CIRCLE, RED_CIRCLE_BELOW), True, True),
        ("two red circles", (RED_CIRCLE,), False, False),
        ("a red circle and a red circle", (RED_CIRCLE, RED_CIRCLE_BELOW), True, True),
        ("a red circle and a red circle", TWO, False, False),
        ("a red circle", (RED_CIRCLE, RED_CIRCLE_BELOW), False, True),
        ("a red circle above a red circle", (RED_CIRCLE, RED_CIRCLE_BELOW), True, True),
        ("a red circle left of a red circle", (RED_CIRCLE, RED_CIRCLE_BELOW), False, False),
        ("a blue thing and a circle", TWO, True, True),
        ("a blue thing and a red square", TWO, False, False),
        ("a red circle at the top-left and a blue square at the bottom", TWO, True, True),
        ("a red circle at the bottom and a blue square at the top-left", TWO, False, False),
    ],
)
def test_what_a_text_says_of_the_number_of_things(
    text: str, things: tuple[Thing, ...], of_picture: bool, of_scene: bool
) -> None:
    assert is_true(text, *things) == (of_picture, of_scene)
    assert is_true(text, *reversed(things)) == (of_picture, of_scene)


def test_only_a_text_that_names_shape_and_colour_of_every_thing_is_complete() -> None:
    complete = {
        text: judge_caption(text, Scene(TWO)).complete
        for text in ("a red circle and a blue square", "a red circle", "a circle and a blue square", "a red circle and a thing",
                     "a red circle and another thing", "a red circle left of a blue square")
    }  # fmt: skip
    assert [text for text, flag in complete.items() if flag] == [
        "a red circle and a blue square", "a red circle left of a blue square"
    ]  # fmt: skip


def test_each_claimed_thing_is_counted_by_shape_and_colour() -> None:
    once = [
        exactly_once(claims("a red circle and a blue square"), things) for things in (TWO, TWO[:1], (*TWO, RED_CIRCLE))
    ]
    assert once == [[True, True], [True, False], [False, True]]
    both = (RED_CIRCLE, RED_CIRCLE_BELOW)
    assert exactly_once(claims("two red circles"), both) == [True, True]
    assert exactly_once(claims("two red circles"), both[:1]) == [False, False]
    assert exactly_once(claims("a red circle above a red circle"), both) == [True, True]
    for text in (
        "a circle",
        "a red thing and a blue square",
        "a red circle and other things",
        "a red circle and another thing",
    ):
        assert exactly_once(claims(text), TWO) == []  # they do not say how many red circles there are


def keys(text: str) -> list[str]:
    claimed = claims(text)
    assert claimed is not None, text
    return claimed.keys()


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("a red circle and a blue square", "a blue square and a small red circle", True),
        ("two red circles", "a red circle and a large red circle", True),
        ("a circle and a square, all red", "a red square and a red circle", True),
        ("a red circle, nothing else", "a red circle", True),
        ("a red circle left of a blue square", "a large blue square to the right of a red circle", True),
        ("a red circle above a blue square", "a blue square below a red circle", True),
        ("a circle and a square, no triangle", "a circle and a square", True),
        ("a red circle and a blue cross, nothing green", "a red circle and a blue cross", True),
        ("a red circle and a blue thing, no triangle", "a red circle and a blue thing", False),
        ("a circle and a square, nothing red", "a circle and a square", False),
        ("a red circle and other things, nothing blue", "a red circle and other things", False),
        ("a red circle and other things", "a red circle and another thing", False),
        ("a red circle and another thing", "a red circle", False),
        ("a red circle left of a blue square", "a red circle above a blue square", False),
        ("a red circle left of a blue square", "a blue square left of a red circle", False),
        ("a red circle at the left", "a red circle", False),
        ("two circles", "a circle", False),
    ],
)
def test_names_of_claims_are_equal_for_equal_meanings_alone(one: str, other: str, equal: bool) -> None:
    assert (sorted(keys(one)) == sorted(keys(other))) == equal


def test_a_caption_with_several_relations_is_held_out_where_all_are_and_trained_where_none_is() -> None:
    text = "a red circle left of a blue square and above a green cross"
    assert len(keys(text)) == 2
    by_number: Counter[tuple[bool, bool]] = Counter()
    for number in range(400):
        rng = numpy_generator(0, "test relations", number)
        written = caption("related", draw_scene(rng, 3), rng)
        if written is not None:
            claimed = claims(written)
            assert isinstance(claimed, Claims)
            by_number[claimed.is_heldout, claimed.may_be_trained] += 1
    assert set(by_number) == {(False, True), (False, False), (True, False)}
    assert by_number[False, True] > by_number[False, False] > by_number[True, False]
