"""The shapes world: what is held out stays out, captions and claims agree, and the judge is exact and hard to fool."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stages.core.seeds import numpy_generator
from stages.sources.document import Document, TextSegment
from stages.sources.shapes.drawing import draw
from stages.sources.shapes.judge import claims_of, judge, judge_caption, see
from stages.sources.shapes.language import after_turn, caption, claims, first_text
from stages.sources.shapes.source import Shapes
from stages.sources.shapes.world import (
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    draw_new_scene,
    draw_scene,
    draw_scene_with_new_thing,
    heldout_combinations,
    scene_from_json,
    scene_to_json,
)

SCENES = [draw_scene(numpy_generator(0, "test", number)) for number in range(150)]


def documents(**options: int) -> list[Document]:
    return list(
        Shapes(
            **{
                "pictures": 300,
                "heldout": 60,
                "heldout_things": 60,
                "interleaved": 60,
                "heldout_interleaved": 10,
                **options,
            }
        ).documents()
    )


def scenes_of(document: Document) -> list[Scene]:
    return [scene_from_json(rows) for rows in document.labels["scenes"]]


def test_one_in_ten_combinations_is_held_out_and_every_pair_of_attributes_is_left() -> None:
    out = set(heldout_combinations())
    assert 0.05 < len(out) / (len(COLOURS) * len(SHAPES) * len(PLACES)) < 0.15
    left = {(c, s, p) for c in COLOURS for s in SHAPES for p in PLACES} - out
    assert {(c, s) for c, s, _ in left} == {(c, s) for c in COLOURS for s in SHAPES}
    assert {(c, p) for c, _, p in left} == {(c, p) for c in COLOURS for p in PLACES}
    assert {(s, p) for _, s, p in left} == {(s, p) for s in SHAPES for p in PLACES}


def test_training_never_shows_a_heldout_combination_and_heldout_documents_do() -> None:
    for document in documents():
        scenes = scenes_of(document)
        if not document.heldout:
            assert not any(scene.heldout for scene in scenes)
        elif document.labels.get("new") == "thing":
            assert scenes[0].has_new_thing
        else:
            assert scenes[0].is_new
            assert not scenes[0].has_new_thing


def test_one_scene_in_ten_is_new_whatever_its_order_and_jitter() -> None:
    rng = np.random.default_rng(0)
    new = []
    for scene in [draw_new_scene(rng) for _ in range(30)]:
        moved = [replace(thing, x=thing.x + 0.001) for thing in reversed(scene.things)]
        assert Scene(tuple(moved)).is_new
        for size in ("small", "large"):
            assert Scene(tuple(replace(thing, size=size) for thing in scene.things)).is_new
        counts = len(scene.things)
        new.append(counts)
    assert set(new) == {1, 2, 3}


def test_no_training_picture_answers_a_heldout_prompt() -> None:
    """The sets of (colour, shape, place): many captions name no size, and the judge's headline asks for none."""

    def things(document: Document) -> list[frozenset[tuple[str, str, str]]]:
        return [frozenset((t.colour, t.shape, t.place) for t in scene.things) for scene in scenes_of(document)]

    shapes = Shapes(size=32, pictures=4000, heldout=100, heldout_things=50, interleaved=400)
    drawn, asked = set(), []
    for document in shapes.documents():
        assert isinstance(document, Document)
        if not document.heldout:
            drawn.update(things(document))
        elif "new" in document.labels:
            asked += things(document)
    assert len(asked) >= 150
    assert drawn.isdisjoint(asked)


def test_documents_do_not_depend_on_how_many_there_are() -> None:
    few = {document.key: document for document in documents(pictures=20, interleaved=5)}
    many = {document.key: document for document in documents(pictures=40, interleaved=9)}
    assert set(few) < set(many)
    assert all(many[key] == document for key, document in few.items())
    other = {document.key: document for document in documents(seed=1)}
    assert other["pair-000003"].labels != few["pair-000003"].labels


def test_things_stay_inside_and_apart() -> None:
    for scene in SCENES:
        for thing in scene.things:
            radius = SIZES[thing.size]
            assert radius < thing.x < 1 - radius
            assert radius < thing.y < 1 - radius
        for one in scene.things:
            for other in scene.things:
                if one != other:
                    gap = max(abs(one.x - other.x), abs(one.y - other.y)) - SIZES[one.size] - SIZES[other.size]
                    assert gap > 0.02


def test_every_caption_is_understood_and_true_of_its_scene() -> None:
    wordings = set()
    for number, scene in enumerate(SCENES):
        text = caption(scene, numpy_generator(1, "caption", number))
        verdict = judge_caption(text, scene)
        assert verdict.understood, text
        assert verdict.claims_true, text
        assert verdict.complete, text
        wordings.add(" left of " in text or " above " in text)
        assert judge(claims(text), see(draw(scene, 64))).all_right, text
    assert wordings == {True, False}


@pytest.mark.parametrize(
    "text",
    ["", "a red", "red circle circle", "a red circle in the", "a circle", "a red circle and", "the top-left", "a pink circle",
     "a red circle left of", "qwerty", "a red circle, a blue", "first", "a red circle a blue square"],
)  # fmt: skip
def test_what_is_not_understood_is_no_claim(text: str) -> None:
    assert claims(text) is None
    assert not judge_caption(text, SCENES[0]).claims_true


def test_variations_of_wording_mean_the_same() -> None:
    plain = claims("a small red circle in the top left and a blue square at the bottom")
    for text in (
        "A small red circle at the top left, and a blue square on the bottom.",
        "there is a small red circle  in the top left and the blue square in the bottom",
    ):
        assert claims(text) == plain
    assert claims("a red circle to the left of a blue square") == claims("a red circle left of a blue square")


@pytest.mark.parametrize("size", [32, 48, 64])
def test_the_judge_sees_exactly_what_was_drawn(size: int) -> None:
    for scene in SCENES:
        assert judge(claims_of(scene), see(draw(scene, size))).all_right


def other(choices: object, than: str, rng: np.random.Generator) -> str:
    left = [choice for choice in choices if choice != than]  # type: ignore[attr-defined]
    return str(left[rng.integers(len(left))])


def test_every_planted_fault_is_caught() -> None:
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(("colour", "shape", "size", "place", "missing", "extra"), 0)
    for scene in SCENES[:40]:
        thing, rest = scene.things[0], scene.things[1:]
        free = [cell for cell in range(9) if all(divmod(cell, 3) != (t.row, t.column) for t in scene.things)]
        row, column = divmod(free[rng.integers(len(free))], 3)
        moved = replace(thing, row=row, column=column, x=(column + 0.5) / 3, y=(row + 0.5) / 3)
        faults = {
            "colour": (replace(thing, colour=other(COLOURS, thing.colour, rng)), *rest),
            "shape": (replace(thing, shape=other(SHAPES, thing.shape, rng)), *rest),
            "size": (replace(thing, size=other(SIZES, thing.size, rng)), *rest),
            "place": (moved, *rest),
            "missing": rest,
            "extra": (*scene.things, moved),
        }
        for fault, things in faults.items():
            verdict = judge(claims_of(scene), see(draw(Scene(tuple(things)), 64)))
            # A change can lead to the same scene where two things were alike but for it.
            if sorted(map(key, things)) != sorted(map(key, scene.things)):
                assert not verdict.all_right, (fault, scene)
                counts[fault] += 1
    assert min(counts.values()) > 30


def key(thing: Thing) -> tuple[str, str, str, str]:
    return thing.shape, thing.colour, thing.size, thing.place


def test_false_captions_are_caught() -> None:
    rng = np.random.default_rng(1)
    for number, scene in enumerate(SCENES):
        thing = scene.things[0]
        wrong = replace(thing, colour=other(COLOURS, thing.colour, rng))
        told = Scene((wrong, *scene.things[1:]))
        if sorted(map(key, told.things)) == sorted(map(key, scene.things)):
            continue
        verdict = judge_caption(caption(told, numpy_generator(2, "caption", number)), scene)
        assert verdict.understood
        assert not verdict.claims_true


def test_one_thing_cannot_stand_for_two_claims() -> None:
    scene = draw_scene_with_new_thing(np.random.default_rng(0), 1)
    thing = scene.things[0]
    assert not judge_caption(f"a {thing.colour} {thing.shape} and a {thing.colour} {thing.shape}", scene).claims_true
    one = judge_caption(f"a {thing.colour} {thing.shape}", Scene((thing, replace(thing, row=2, column=2))))
    assert one.claims_true
    assert not one.complete


def test_stories_say_what_changes() -> None:
    turns = 0
    for document in documents():
        if not document.fixed_order:
            continue
        texts = [segment.text for segment in document.segments if isinstance(segment, TextSegment)]
        scenes = scenes_of(document)
        assert len(texts) == len(scenes) == len(document.images) >= 2
        for before, text, after in zip(scenes, texts[1:], scenes[1:], strict=False):
            expected = after_turn(claims_of(before).things[0], text)
            assert expected == claims_of(after).things[0]
            turns += 1
        assert claims(texts[0]) is not None
    assert turns > 60
    assert after_turn(claims_of(SCENES[0]).things[0], "then it explodes:") is None
    assert first_text(SCENES[0].things[0], np.random.default_rng(0)).startswith("first a ")


def test_scenes_survive_json() -> None:
    assert all(scene_from_json(scene_to_json(scene)) == scene for scene in SCENES)


def test_every_number_of_things_is_equally_likely() -> None:
    counts = np.bincount([len(draw_scene(numpy_generator(0, "test numbers", number)).things) for number in range(900)])
    assert counts[0] == 0
    assert all(250 < count < 350 for count in counts[1:])
    assert len(counts) == 4


def test_the_count_of_a_plan_is_that_of_the_documents() -> None:
    source = Shapes(pictures=30, heldout=5, heldout_things=4, interleaved=40, heldout_interleaved=0)
    documents = list(source.documents())
    assert source.count() == (len(documents), sum(len(document.images) for document in documents))
