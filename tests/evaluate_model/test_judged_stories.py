"""The judge of stories: right for what the world itself draws, wrong for each kind of mistake."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stages.evaluate_model.documents import scene_of, texts_of
from stages.evaluate_model.judged_stories import judge_continued, judge_free, judge_swapped, judge_turned, swaps_of
from stages.generation.config import GenerationConfig
from stages.generation.prompts import ImagePiece, Output, Piece, Prompt, TextPiece
from stages.sources.shapes.world import Thing, fits
from tests.evaluate_model.world import Held, World, given, image_of, picture, thing

OTHER = {"small": "large", "large": "small"}


def stories(monkeypatch: pytest.MonkeyPatch, count: int | None = 30) -> World:
    return World("heldout-story", monkeypatch, count)


def things_of(each: Held) -> list[Thing]:
    return [scene_of(each.document, number).things[0] for number in range(len(each.document.labels["scenes"]))]


def test_a_story_as_the_world_writes_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    world = stories(monkeypatch)
    figures = judge_continued(world.model, world.documents).figures
    pictures = sum(len(each.pieces) // 2 - 1 for each in world.held)
    assert figures == {
        "continued": 1.0,
        "continued_count": len(world.held),
        "continued_ended": 1.0,
        "continued_pictures": 1.0,
        "continued_pictures_count": pictures,
    }
    assert pictures > len(world.held)
    (prompts,) = world.asked
    for prompt, each in zip(prompts, world.held, strict=True):
        assert prompt == Prompt(each.pieces[:2], max_images=GenerationConfig().max_images)


MISTAKES = {
    "no text": lambda found: (found[3:], "eos"),
    "another text": lambda found: ([TextPiece("then it sings: "), *found[3:]], "eos"),
    "the old picture": lambda found: ([found[2], found[1]], "eos"),
    "an empty picture": lambda found: ([found[2], picture()], "eos"),
    "no end": lambda found: (found[2:], "images"),
    "a text at the end": lambda found: ([*found[2:], TextPiece("then it turns blue: ")], "eos"),
    "one picture more": lambda found: ([*found[2:], found[-1]], "eos"),
    "nothing": lambda _found: ([], "eos"),
}


@pytest.mark.parametrize("fault", MISTAKES)
def test_each_mistake_of_a_story_counts(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    world = stories(monkeypatch)
    world.held = tuple(each for each in world.held if each.document.labels["story"] == "turns")
    world.documents = [each.document for each in world.held]
    answers = []
    for number, each in enumerate(world.held):
        pieces, ended = MISTAKES[fault](each.pieces) if number % 2 else (each.pieces[2:], "eos")
        answers.append(Output(list(pieces), ended))
    given(world, monkeypatch, answers)
    right = [item.right for item in judge_continued(world.model, world.documents).judged]
    assert right == [number % 2 == 0 for number in range(len(world.held))]


def test_after_a_text_of_no_story_every_picture_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that of a text which the story has after the pictures before."""
    world = stories(monkeypatch)
    world.held = tuple(each for each in world.held if each.document.labels["story"] == "turns")
    world.documents = [each.document for each in world.held]
    sings = TextPiece("then it sings: ")
    given(world, monkeypatch, [Output([sings, each.pieces[1], *each.pieces[2:4]], "eos") for each in world.held])
    figures = judge_continued(world.model, world.documents).figures
    assert (figures["continued_pictures"], figures["continued_pictures_count"]) == (0.0, 2 * len(world.held))


def test_the_last_picture_as_asked_for_is_right_and_the_one_before_it_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    world = stories(monkeypatch)
    part = judge_turned(world.model, world.documents)
    figures = part.figures
    assert {value for name, value in figures.items() if not name.endswith("_count")} == {1.0}
    kinds = [each.document.labels["story"] for each in world.held]
    assert figures["turned_count"] == kinds.count("turns") > 0
    assert figures["turned_two_count"] == kinds.count("two") > 0
    whats = ("colour", "size", "shape", "place")
    assert sum(figures[f"turned_{what}_count"] for what in whats) == kinds.count("turns")
    assert sum(figures.get(f"turned_two_{what}_count", 0) for what in whats) == kinds.count("two")
    for prompt, each in zip(world.asked[0], world.held, strict=True):
        assert prompt == Prompt(each.pieces[:-1], image_next=True)
    assert [item.mode for item in part.judged] == ["turned" if kind == "turns" else "turned_two" for kind in kinds]
    given(world, monkeypatch, [Output([each.pieces[-3]], "drawn") for each in world.held])
    turns = [item.right for item in judge_turned(world.model, world.documents).judged if item.mode == "turned"]
    assert not any(turns)


def altered(found: Thing, attribute: str) -> Thing:
    """Another one that differs in this alone; in the place by a tenth, within its region where it can be."""
    if attribute == "place":
        steps = ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1))
        near = (replace(found, x=found.x + across, y=found.y + down) for across, down in steps)
        return next(each for each in near if fits(each, ()))
    if attribute == "size":
        return replace(found, size=OTHER[found.size])
    values = {"colour": ("red", "cyan"), "shape": ("circle", "cross")}[attribute]
    return replace(found, **{attribute: next(value for value in values if value != getattr(found, attribute))})


@pytest.mark.parametrize("attribute", ["colour", "shape", "size", "place"])
def test_what_the_text_leaves_to_the_picture_must_be_kept(monkeypatch: pytest.MonkeyPatch, attribute: str) -> None:
    """Each attribute of the last picture by itself: of every second story it is another one."""
    world = stories(monkeypatch)
    keep = [each for each in world.held if attribute != "place" or "moves" not in texts_of(each.document)[-1]]
    world.held = tuple(keep)
    world.documents = [each.document for each in keep]
    answers = []
    for number, each in enumerate(keep):
        last = things_of(each)[-1]
        drawn = picture(altered(last, attribute) if number % 2 else last)
        answers.append((drawn, [*each.pieces[2:-1], drawn]))
    right = [number % 2 == 0 for number in range(len(keep))]
    given(world, monkeypatch, [Output([drawn], "drawn") for drawn, _ in answers])
    assert [item.right for item in judge_turned(world.model, world.documents).judged] == right
    given(world, monkeypatch, [Output(pieces, "eos") for _, pieces in answers])
    assert [item.right for item in judge_continued(world.model, world.documents).judged] == right


def test_swaps_give_another_picture_in_which_the_change_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    world = stories(monkeypatch, None)
    swaps = swaps_of(world.documents)
    assert len(swaps) > 10
    assert {swap.what for swap in swaps} == {"colour", "size", "shape", "place"}
    for swap in swaps:
        own, other = scene_of(swap.story).things[0], scene_of(swap.other).things[0]
        assert swap.story.key != swap.other.key
        assert (own.shape, own.colour) != (other.shape, other.colour)
        assert texts_of(swap.story)[0] == "first this: "
        asked = swap.text.rstrip(": ").split()[-1]
        assert asked not in (other.colour, other.shape, other.size, other.region)
        assert (swap.expected.shape, swap.expected.colour) != (swap.unchanged.shape, swap.unchanged.colour)
    assert swaps == swaps_of(world.documents)


@pytest.mark.parametrize("reads", [True, False])
def test_a_swapped_picture_is_followed_or_not(monkeypatch: pytest.MonkeyPatch, reads: bool) -> None:
    """A model that changes the thing of the given picture, and one that draws the story's own next picture."""
    world = stories(monkeypatch, None)
    swaps = swaps_of(world.documents)
    pieces = {each.document.key: each.pieces for each in world.held}
    answers = []
    for swap in swaps:
        drawn = pieces[swap.story.key][3]
        if reads:
            other, true = scene_of(swap.other).things[0], scene_of(swap.story, 1).things[0]
            if swap.what == "place":
                drawn = picture(replace(other, x=true.x, y=true.y))
            else:
                drawn = picture(replace(other, **{swap.what: getattr(true, swap.what)}))
        answers.append(Output([drawn], "drawn"))
    given(world, monkeypatch, answers)
    figures = judge_swapped(world.model, world.documents).figures
    assert (figures["swapped"], figures["swapped_unchanged"]) == (float(reads), float(not reads))
    assert figures["swapped_count"] == len(swaps)
    for prompt, swap in zip(world.asked[0], swaps, strict=True):
        own, other = pieces[swap.story.key], pieces[swap.other.key]
        assert prompt == Prompt((own[0], other[1], own[2]), image_next=True)


RED_SQUARE, BLUE_SQUARE = thing("square", "red", 0.2, 0.2), thing("square", "blue", 0.2, 0.2)
BLUE_CIRCLE, HEXAGON = thing("circle", "blue", 0.7, 0.6), thing("hexagon", "red", 0.5, 0.5)
FITS, SHOWS, BLUE = TextPiece("a red square at the top-left"), picture(RED_SQUARE), picture(BLUE_SQUARE)
LIES, FIRST = TextPiece("a blue square at the top-left"), TextPiece("first this: ")
TURN, SECOND = TextPiece("then it turns blue: "), TextPiece("second this: ")
TAKES = TextPiece("then the first in the colour of the second: ")
TWO = [FIRST, SHOWS, SECOND, picture(BLUE_CIRCLE), TAKES]
FREE: dict[str, tuple[list[Piece], str, float, float]] = {
    "a pair": ([FITS, SHOWS], "eos", 1, 1),
    "picture first": ([SHOWS, FITS], "eos", 1, 1),
    "another text": ([LIES, SHOWS], "eos", 0, 1),
    "no sense": ([TextPiece("the the the"), SHOWS], "eos", 0, 1),
    "no text": ([SHOWS], "eos", 0, 1),
    "no picture": ([FITS], "eos", 0, 0),
    "no end": ([FITS, SHOWS], "images", 0, 0),
    "nothing": ([], "eos", 0, 0),
    "two texts that fit together": ([TextPiece("a red square"), SHOWS, TextPiece(" at the top-left")], "eos", 0, 1),
    "a story": ([FIRST, SHOWS, TURN, BLUE], "eos", 1, 1),
    "a story that names its first thing": (
        [TextPiece("first a red square at the top-left: "), SHOWS, TURN, BLUE],
        "eos",
        1,
        1,
    ),
    "a story that names another thing": (
        [TextPiece("first a red cross at the top-left: "), SHOWS, TURN, BLUE],
        "eos",
        0,
        1,
    ),
    "a story that begins with two things": ([FIRST, picture(RED_SQUARE, BLUE_CIRCLE), TURN, BLUE], "eos", 0, 1),
    "a story that begins with no thing": ([FIRST, picture(), TURN, BLUE], "eos", 0, 1),
    "a story of something unknown": (
        [FIRST, picture(HEXAGON), TURN, picture(replace(HEXAGON, colour="blue"))],
        "eos",
        0,
        1,
    ),
    "a story of one picture": ([FIRST, SHOWS], "eos", 0, 1),
    "a story without a change": ([FIRST, SHOWS, TURN, SHOWS], "eos", 0, 1),
    "a story without an end": ([FIRST, SHOWS, TURN, BLUE], "images", 0, 0),
    "a story of two things": ([*TWO, BLUE], "eos", 1, 1),
    "a story of two things that ends early": (TWO[:4], "eos", 0, 1),
    "a story of two things that changes neither": ([*TWO, SHOWS], "eos", 0, 1),
    "a caption, then a turn": ([FITS, SHOWS, TURN, BLUE], "eos", 0, 1),
}


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    def judged(*outputs: Output) -> Any:
        world = World("heldout-story", monkeypatch, 1)
        given(world, monkeypatch, outputs)
        part = judge_free(world.model, len(outputs))
        assert world.asked == [[Prompt(max_images=GenerationConfig().max_images)] * len(outputs)]
        return part

    return judged


@pytest.mark.parametrize("name", FREE)
def test_a_free_document_is_one_of_the_world(free: Any, name: str) -> None:
    pieces, ending, right, ended = FREE[name]
    part = free(Output(pieces, ending))
    assert (part.figures["free"], part.figures["free_with_picture_and_end"]) == (right, ended)
    assert [item.right for item in part.judged] == [bool(right)]


def test_shares_are_of_all_free_documents(free: Any) -> None:
    part = free(*(Output(pieces, ending) for pieces, ending, _, _ in FREE.values()))
    assert part.figures["free_count"] == len(FREE)
    assert part.figures["free"] == pytest.approx(sum(right for *_, right, _ in FREE.values()) / len(FREE), abs=1e-4)
    ended = sum(end for *_, end in FREE.values()) / len(FREE)
    assert part.figures["free_with_picture_and_end"] == pytest.approx(ended, abs=1e-4)


def test_the_documents_of_the_world_are_right_free_documents(free: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("heldout-story", "alike"):
        held = World(kind, monkeypatch, 12).held
        assert free(*(Output(list(each.pieces), "eos") for each in held)).figures["free"] == 1.0


def test_pictures_are_asked_for_with_their_own_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    world = stories(monkeypatch)
    judge_turned(world.model, world.documents[:3])
    for prompt, each in zip(world.asked[0], world.held, strict=False):
        assert sum(isinstance(piece, ImagePiece) for piece in prompt.pieces) == len(each.pieces) // 2 - 1
        assert image_of(each.pieces[:2]) in prompt.pieces
