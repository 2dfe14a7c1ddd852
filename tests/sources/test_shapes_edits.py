"""Edits of the world of shapes: an instruction says exactly what changes, of exactly one thing, and the judge sees it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from stages.core.seeds import numpy_generator
from stages.sources.document import Document
from stages.sources.shapes.drawing import draw
from stages.sources.shapes.edits import EDITS, ShapesEdits, draw_edit
from stages.sources.shapes.judge import claims_of, judge, see
from stages.sources.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Scene, Thing, draw_scene
from tests.sources.shapes_drawn import scenes_of, texts_of

_PLACE = "|".join(sorted(PLACES, key=len, reverse=True))
_NAME = rf"(?P<name>it|the (?P<colour>\w+) (?P<shape>\w+)(?: (?:at|in|on) the (?P<place>{_PLACE}))?)"
_CHANGE = re.compile(rf"(?:make {_NAME} (?P<new>\w+))")
_SHAPE = re.compile(rf"change {_NAME} into a (?P<new>\w+)")
_MOVE = re.compile(rf"move {_NAME} to the (?P<new>{_PLACE})")
_REMOVE = re.compile(rf"remove {_NAME}")
_ADD = re.compile(rf"add a (?P<size>\w+) (?P<colour>\w+) (?P<shape>\w+) (?:at|in|on) the (?P<place>{_PLACE})")


@cache
def documents(edits: int = 400, heldout: int = 80) -> tuple[Document, ...]:
    return tuple(ShapesEdits(edits=edits, heldout=heldout).documents())


def text_of(document: Document) -> str:
    (text,) = texts_of(document)
    return text


def named(found: re.Match[str], things: list[Thing]) -> list[int]:
    """The things that a name may mean: a place is also that of a thing too close to its border."""
    if found["name"] == "it":
        return list(range(len(things)))
    fitting = [n for n, t in enumerate(things) if (t.colour, t.shape) == (found["colour"], found["shape"])]
    if found["place"]:
        fitting = [n for n in fitting if things[n].place in (None, found["place"])]
    return fitting


def attributes(thing: Thing) -> tuple[str, str, str, float, float]:
    return thing.colour, thing.shape, thing.size, thing.x, thing.y


def differing(text: str, before: Scene, after: Scene) -> list[str]:
    """What is in `after` other than the words of the instruction make of `before`; positions of a moved or added thing aside."""
    things, left = list(before.things), list(after.things)
    if found := _ADD.fullmatch(text):
        new = [t for t in left if t not in things]
        wanted = [(found["colour"], found["shape"], found["size"], found["place"])]
        right = [(t.colour, t.shape, t.size, t.place) for t in new] == wanted and set(things) <= set(left)
        return [] if right and len(left) == len(things) + 1 else ["add"]
    found = _REMOVE.fullmatch(text) or _SHAPE.fullmatch(text) or _MOVE.fullmatch(text) or _CHANGE.fullmatch(text)
    assert found is not None, text
    (meant,) = named(found, things)  # of exactly one thing
    thing = things.pop(meant)
    others = sorted(map(attributes, things))
    if text.startswith("remove"):
        return [] if sorted(map(attributes, left)) == others else ["remove"]
    (changed,) = [t for t in left if t not in before.things]
    left.remove(changed)
    wrong = [] if sorted(map(attributes, left)) == others else ["others"]
    new = found["new"]
    if text.startswith("move"):
        same = replace(changed, x=thing.x, y=thing.y) == thing
        return wrong + ([] if changed.place == new and same else ["place"])
    name = next(name for name, values in {"colour": COLOURS, "shape": SHAPES, "size": SIZES}.items() if new in values)
    return wrong + ([] if changed == replace(thing, **{name: new}) else [name])


def test_an_instruction_carried_out_gives_the_second_scene_and_nothing_else() -> None:
    by_place, kinds = 0, Counter[str]()
    for document in documents():
        before, after = scenes_of(document)
        text = text_of(document)
        assert differing(text, before, after) == [], (text, before, after)
        by_place += bool(re.match(r"(make|change|move|remove) the \w+ \w+ (at|in|on) the", text))
        kinds[document.labels["edit"]] += 1
    assert set(kinds) == set(EDITS)
    assert by_place > 0


def test_what_moves_moves_visibly() -> None:
    moves = 0
    for document in documents():
        if document.labels["edit"] == "place":
            before, after = scenes_of(document)
            (old,), (new,) = (set(one.things) - set(other.things) for one, other in ((before, after), (after, before)))
            assert max(abs(old.x - new.x), abs(old.y - new.y)) >= 0.2
            moves += 1
    assert moves > 40


def test_of_two_alike_one_is_named_by_a_place_that_the_other_is_not_near() -> None:
    left = Thing("circle", "red", "small", 0.2, 0.5)
    close = replace(left, y=0.32)  # in the region above, but within the margin of the left one
    clear = replace(left, y=0.15)
    texts = {name: set[str]() for name in ("close", "clear")}
    for name, other in (("close", close), ("clear", clear)):
        for number in range(200):
            edit = draw_edit("colour", Scene((left, other)), 3, numpy_generator(0, "test alike", number))
            if edit is not None:
                texts[name].add(edit.text.split(" the ")[-1].rsplit(" ", 1)[0])
    assert texts == {"close": set(), "clear": {"left", "top-left"}}


def test_heldout_instructions_are_never_given_in_training_for_as_many_things_and_no_new_thing_is_shown() -> None:
    asked: dict[bool, set[tuple[str, int]]] = {True: set(), False: set()}
    kinds: Counter[tuple[bool, str]] = Counter()
    for document in documents():
        before, after = scenes_of(document)
        assert not before.has_new_thing
        assert not after.has_new_thing
        assert all(1 <= len(scene.things) <= 3 for scene in (before, after))
        asked[document.heldout].add((text_of(document), len(after.things)))
        kinds[document.heldout, document.labels["edit"]] += 1
        assert document.has_heldout_loss is not document.heldout
    assert set(kinds) == {(heldout, kind) for heldout in (False, True) for kind in EDITS}
    assert len(asked[True]) > 40
    assert asked[True].isdisjoint(asked[False])


def test_documents_do_not_depend_on_their_number() -> None:
    few, many = documents(5, 2), documents(40, 9)
    assert few[:2] == many[:2]
    assert few[2:] == many[9:14]
    assert ShapesEdits(edits=40, heldout=9).count() == (49, 98)
    assert [type(part).__name__ for part in few[0].segments] == ["ImageSegment", "TextSegment", "ImageSegment"]
    assert few[0].fixed_order


@pytest.mark.parametrize("most", [1, 2, 4])
def test_every_number_of_things_has_edits(most: int) -> None:
    """Of a single thing nothing can be removed, and nothing added."""
    kinds = {d.labels["edit"] for d in ShapesEdits(edits=40, heldout=2, max_things=most).documents()}
    assert kinds == set(EDITS) - ({"remove", "add"} if most == 1 else set())


def test_every_edit_changes_the_scene() -> None:
    rng = np.random.default_rng(0)
    kinds: Counter[str] = Counter()
    for number in range(150):
        scene = draw_scene(rng, 1 + number % 3)
        for kind in EDITS:
            edit = draw_edit(kind, scene, 3, rng)
            if edit is not None:
                assert sorted(map(attributes, edit.after.things)) != sorted(map(attributes, scene.things))
                kinds[kind] += 1
    assert min(kinds[kind] for kind in EDITS) > 10


def test_the_judge_tells_the_edited_picture_from_the_first() -> None:
    for document in documents()[:40]:
        before, after = scenes_of(document)
        wanted = claims_of(after)
        assert judge(wanted, see(draw(after, 48))).all_right
        assert not judge(wanted, see(draw(before, 48))).all_right
