"""The judge of drawings, of captions and of documents made up from nothing: what counts and what does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.artifacts.latents import StoredDocument, caption_of
from stages.core.runtime import Runtime
from stages.evaluate_model import judged
from stages.evaluate_model.config import EvalConfig
from stages.evaluate_model.judged import TaskScores, judge_drawings, judge_free, judge_texts, shapes_pairs
from stages.generation.config import GenerationConfig
from stages.generation.prompts import ImagePiece, Output, Prompt, TextPiece
from stages.sources.shapes.drawing import draw
from stages.sources.shapes.world import Scene, Thing, scene_to_json
from tests.evaluate_model.world import SIDE, World


def picture(*things: Thing) -> ImagePiece:
    return ImagePiece(torch.from_numpy(draw(Scene(things), SIDE)).permute(2, 0, 1))


def thing(shape: str, colour: str, column: int, row: int, size: str = "large") -> Thing:
    """Shape, colour, size and cell; in the middle of the cell."""
    return Thing(shape=shape, colour=colour, size=size, column=column, row=row, x=(column + 0.5) / 3, y=(row + 0.5) / 3)


def the_picture(found: tuple[Any, ...]) -> ImagePiece:
    (own,) = (piece for piece in found if isinstance(piece, ImagePiece))
    return own


def number_of_things(pair: StoredDocument) -> int:
    return len(pair.labels["scenes"][0])


def part_of(world: World, function: Any) -> TaskScores:
    pairs = [document for document, _ in world.documents]
    part: TaskScores = function(world.loaded, pairs, GenerationConfig(), 0, Runtime())
    return part


def test_true_pictures_are_right_drawings_and_are_asked_for_by_their_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("new-scene", judged, monkeypatch)
    monkeypatch.setattr(world, "answer", lambda _n, _p, found: Output([the_picture(found)], "drawn"))
    part = part_of(world, judge_drawings)
    shares = {name: value for name, value in part.figures.items() if name != "text_to_image_count"}
    assert set(shares.values()) == {1.0}
    assert part.figures["text_to_image_count"] == len(world.documents) == 20
    for prompt, (pair, _) in zip(world.asked, world.documents, strict=True):
        assert prompt.pieces == (TextPiece(caption_of(pair)),)
        assert prompt.image_next
    assert [item.key for item in part.judged] == [pair.key for pair, _ in world.documents]
    assert all(item.right and item.mode == "text_to_image" for item in part.judged)


def test_a_drawing_of_another_caption_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other document is given the picture of the next one; the ceiling, of true pictures, stays at 1."""
    world = World("new-scene", judged, monkeypatch)

    def answer(number: int, _prompt: Prompt, found: tuple[Any, ...]) -> Output:
        other = world.documents[(number + 1) % len(world.documents)][1]
        return Output([the_picture(other if number % 2 else found)], "drawn")

    monkeypatch.setattr(world, "answer", answer)
    part = part_of(world, judge_drawings)
    assert [item.right for item in part.judged] == [number % 2 == 0 for number in range(20)]
    assert part.figures["text_to_image"] == 0.5
    assert part.figures["text_to_image_of_true_pictures"] == 1.0
    for things in (1, 2, 3):
        own = [
            item.right
            for item, (pair, _) in zip(part.judged, world.documents, strict=True)
            if number_of_things(pair) == things
        ]
        assert part.figures[f"text_to_image_of_{things}"] == pytest.approx(sum(own) / len(own), abs=1e-4)


RED_SQUARE = thing("square", "red", 0, 0)
DRAWN: dict[str, tuple[Thing, str, set[str]]] = {
    "as told": (RED_SQUARE, "a large red square at the top-left", {"objects", "colours", "places", "with_sizes"}),
    "another shape": (RED_SQUARE, "a large red circle at the top-left", {"colours", "places"}),
    "another colour": (RED_SQUARE, "a large blue square at the top-left", {"objects", "places"}),
    "another place": (RED_SQUARE, "a large red square at the top-right", {"objects", "colours"}),
    "another size": (RED_SQUARE, "a small red square at the top-left", {"objects", "colours", "places"}),
}


def only(world: World, monkeypatch: pytest.MonkeyPatch, text: str, scene: Scene) -> None:
    """The world has one document left, of this caption and this scene."""
    found = (TextPiece(text), picture(*scene.things))
    (document, _), *_ = world.documents
    facts = {"new": "scene", "scenes": [scene_to_json(scene)]}
    segments = tuple(type(part)(text) if hasattr(part, "text") else part for part in document.segments)
    own = StoredDocument(document.index, "one", None, False, True, facts, segments, "pictures")
    world.documents = [(own, found)]
    monkeypatch.setattr(judged, "pieces_of", lambda _document, _loaded: found)


@pytest.mark.parametrize("fault", DRAWN)
def test_each_part_of_a_drawing_counts_for_itself(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    drawn, text, right = DRAWN[fault]
    world = World("new-scene", judged, monkeypatch)
    only(world, monkeypatch, text, Scene((drawn,)))
    monkeypatch.setattr(world, "answer", lambda *_: Output([picture(drawn)], "drawn"))
    figures = part_of(world, judge_drawings).figures
    found = {name for name in ("objects", "colours", "places", "with_sizes") if figures[f"text_to_image_{name}"] == 1.0}
    assert found == right
    assert figures["text_to_image"] == float({"objects", "colours", "places"} <= right)


TWO = Scene((RED_SQUARE, thing("circle", "blue", 2, 2)))
WRITTEN = {
    "a red square at the top-left and a blue circle at the bottom-right": (True, True),
    "a red square at the top-left": (True, False),  # nothing false, not everything
    "a red square above a blue circle": (True, True),
    "a red square below a blue circle": (False, False),  # understood, and false
    "a blue square at the top-left and a red circle at the bottom-right": (False, False),
    "a red square at the top-left and a red square at the top-left": (False, False),  # one thing named twice
    "a red square at the top-left and something": (False, False),  # not understood
    "": (False, False),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_a_caption_is_right_if_it_is_understood_and_nothing_in_it_is_false(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    true, complete = WRITTEN[text]
    world = World("new-scene", judged, monkeypatch)
    only(world, monkeypatch, "a red square", TWO)
    pieces = [TextPiece(text[:8]), TextPiece(text[8:])] if text else []
    monkeypatch.setattr(world, "answer", lambda *_: Output(pieces, "eos"))
    part = part_of(world, judge_texts)
    assert part.figures["image_to_text"] == part.figures["image_to_text_of_2"] == float(true)
    assert part.figures["image_to_text_complete"] == float(complete)
    assert part.figures["image_to_text_count"] == 1
    (item,) = part.judged
    assert (item.mode, item.text, item.right) == ("image_to_text", text, true)
    (prompt,) = world.asked  # the picture alone: a caption in the prompt would be copied
    assert [type(piece) for piece in prompt.pieces] == [ImagePiece]
    assert prompt.max_images == 0


def free(monkeypatch: pytest.MonkeyPatch, *outputs: Output) -> TaskScores:
    world = World("new-scene", judged, monkeypatch)
    monkeypatch.setattr(world, "generate", lambda prompts: [outputs[number] for number, _ in enumerate(prompts)])
    return judge_free(world.loaded, EvalConfig(free=len(outputs)), 0, Runtime())


FITS, SHOWS = TextPiece("a red square at the top-left"), picture(RED_SQUARE)
LIES = TextPiece("a blue square at the top-left")
FREE: dict[str, tuple[Output, float, float]] = {
    "a pair": (Output([FITS, SHOWS], "eos"), 1, 1),
    "picture first": (Output([SHOWS, FITS], "eos"), 1, 1),
    "another text": (Output([LIES, SHOWS], "eos"), 0, 1),
    "no sense": (Output([TextPiece("the the the"), SHOWS], "eos"), 0, 1),
    "no text": (Output([SHOWS], "eos"), 0, 1),
    "no picture": (Output([FITS], "eos"), 0, 0),
    "no end": (Output([FITS, SHOWS], "images"), 0, 0),
    "nothing": (Output([], "eos"), 0, 0),
    "a story": (Output([FITS, SHOWS, TextPiece("then it turns blue: "), SHOWS], "eos"), 1, 1),
    "the first picture is wrong": (Output([LIES, SHOWS, FITS, SHOWS], "eos"), 0, 1),
}


@pytest.mark.parametrize("name", FREE)
def test_a_free_document_needs_a_picture_an_end_and_a_text_that_fits(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    output, right, ended = FREE[name]
    part = free(monkeypatch, output)
    assert (part.figures["free"], part.figures["free_with_picture_and_end"]) == (right, ended)
    assert [item.right for item in part.judged] == [bool(right)]


def test_free_documents_are_drawn_at_their_own_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy text would be one document a hundred times; all else is as in the settings."""
    world = World("new-scene", judged, monkeypatch)
    monkeypatch.setattr(world, "generate", lambda prompts: [Output([], "eos") for _ in prompts])
    generation = GenerationConfig(temperature=0.0, guidance=1.5, max_images=2)
    judge_free(world.loaded, EvalConfig(free=3, free_temperature=0.7, generation=generation), 0, Runtime())
    assert world.settings == generation.model_copy(update={"temperature": 0.7})


def test_shares_are_of_all_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    part = free(monkeypatch, *(output for output, _, _ in FREE.values()))
    assert part.figures["free_count"] == len(FREE)
    assert part.figures["free"] == pytest.approx(sum(right for _, right, _ in FREE.values()) / len(FREE))
    ended = sum(end for _, _, end in FREE.values()) / len(FREE)
    assert part.figures["free_with_picture_and_end"] == pytest.approx(ended)


def test_pairs_are_chosen_by_what_is_new_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [document for document, _ in World("new-scene", judged, monkeypatch).documents]
    stories = [document for document, _ in World("heldout-story", judged, monkeypatch).documents]
    things = [StoredDocument(0, "t", None, False, True, {"new": "thing"}, pairs[0].segments, "pictures")]
    foreign = [StoredDocument(0, "f", None, False, True, None, pairs[0].segments, "pictures")]
    held = [*stories, *foreign, *things, *pairs]
    monkeypatch.setattr(judged, "heldout_documents", lambda _loaded: iter(held))
    loaded: Any = SimpleNamespace()
    assert shapes_pairs(loaded, "scene") == pairs
    assert shapes_pairs(loaded, "thing") == things
