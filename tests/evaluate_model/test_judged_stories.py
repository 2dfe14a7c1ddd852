"""The judge of stories and of filled holes: right for what the world itself draws, wrong for each kind of mistake."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from stages.core.runtime import Runtime
from stages.evaluate_model import judged_stories
from stages.evaluate_model.judged_stories import (
    judge_continued,
    judge_inpainted,
    judge_turned,
    with_thing_at_right,
)
from stages.generation.config import GenerationConfig
from stages.generation.prompts import ImagePiece, Output, Prompt, TextPiece
from stages.sources.shapes.drawing import draw
from stages.sources.shapes.world import Scene, scene_from_json
from tests.evaluate_model.world import SIDE, World


def test_a_story_as_the_world_tells_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("heldout-story", judged_stories, monkeypatch)
    figures = world.judge(judge_continued)
    assert figures == {"continued": 1.0, "continued_pictures": 1.0, "continued_ended": 1.0, "continued_count": 20}
    assert all(len(prompt.pieces) == 2 for prompt in world.asked)
    assert any(len(found) > 4 for _, found in world.documents)


@pytest.mark.parametrize("fault", ["no turn", "another turn", "the old picture", "no end", "nothing"])
def test_each_mistake_of_a_story_counts(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    world = World("heldout-story", judged_stories, monkeypatch)

    def answer(number: int, prompt: Prompt, found: tuple[Any, ...]) -> Output:
        pieces = list(found[len(prompt.pieces) :])
        if number % 2:
            return Output(pieces, "eos")
        first = {
            "no turn": [],
            "another turn": [TextPiece("then it sings: ")],
            "the old picture": [pieces[0]],
            "no end": [pieces[0]],
        }
        if fault == "nothing":
            return Output([], "eos")
        picture = found[1] if fault == "the old picture" else pieces[1]
        return Output([*first[fault], picture], "images" if fault == "no end" else "eos")

    monkeypatch.setattr(world, "answer", answer)
    assert world.judge(judge_continued)["continued"] == 0.5


def test_a_turn_as_told_is_right_and_the_old_picture_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("heldout-story", judged_stories, monkeypatch)

    def answer(number: int, _prompt: Prompt, found: tuple[Any, ...]) -> Output:
        return Output([found[3 if number % 2 else 1]], "images")

    monkeypatch.setattr(world, "answer", answer)
    stories = [document for document, _ in world.documents]
    part = judge_turned(world.loaded, stories, GenerationConfig(), 0, Runtime())
    figures = part.figures
    assert [item.right for item in part.judged] == [number % 2 == 1 for number in range(len(stories))]
    assert figures["turned"] == 0.5
    # never a size: a new thing that only changes its size is a new thing still, which no turn makes
    assert {name for name in figures if name.startswith("turned_")} == {"turned_colour", "turned_place", "turned_count"}


def test_what_is_filled_in_is_judged_by_the_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("new-scene", judged_stories, monkeypatch)
    chosen = with_thing_at_right([document for document, _ in world.documents])
    assert 0 < len(chosen) < len(world.documents)
    world.documents = [pair for pair in world.documents if pair[0] in chosen]

    def answer(_number: int, prompt: Prompt, found: tuple[Any, ...]) -> Output:
        (true,) = (piece for piece in found if isinstance(piece, ImagePiece))
        assert prompt.edit is not None
        assert prompt.edit.change_hw is not None
        assert not prompt.edit.change_hw[:, : SIDE // 2].any()
        assert prompt.edit.change_hw[:, SIDE // 2 :].all()
        if prompt.pieces:
            return Output([true], "images")
        blank = true.latent.clone()
        blank[:, :, SIDE // 2 :] = blank[:, :1, -1:]  # the ground
        return Output([ImagePiece(blank)], "images")

    monkeypatch.setattr(world, "answer", answer)
    figures = world.judge(judge_inpainted)
    assert (figures["inpainted"], figures["inpainted_kept_error"]) == (1.0, 0.0)
    assert figures["inpainted_without_text"] == 0.0


def test_a_thing_of_the_other_size_is_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text leaves the size open, the first picture does not: all else as told, the size changed, is wrong."""
    world = World("heldout-story", judged_stories, monkeypatch)
    scenes = [scene_from_json(document.labels["scenes"][1]) for document, _ in world.documents]

    def answer(number: int, prompt: Prompt, found: tuple[Any, ...]) -> Output:
        (true,) = scenes[number].things
        size = true.size if number % 3 else {"small": "large", "large": "small"}[true.size]
        drawn = ImagePiece(torch.from_numpy(draw(Scene((replace(true, size=size),)), SIDE)).permute(2, 0, 1))
        return Output([drawn] if prompt.image_next else [found[2], drawn], "eos")

    monkeypatch.setattr(world, "answer", answer)
    stories = [document for document, _ in world.documents]
    for function in (judge_turned, judge_continued):
        part = function(world.loaded, stories, GenerationConfig(), 0, Runtime())
        assert [item.right for item in part.judged] == [number % 3 != 0 for number in range(len(stories))]


def test_what_moved_beside_the_hole_is_measured_in_values_of_a_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The left third alone, brighter here and darker there by 10: whatever was drawn in the hole, and without wrapping."""
    world = World("new-scene", judged_stories, monkeypatch)

    def answer(number: int, _prompt: Prompt, found: tuple[Any, ...]) -> Output:
        (true,) = (piece for piece in found if isinstance(piece, ImagePiece))
        picture = true.latent.clone().int()
        picture[:, :, : SIDE // 3] += -10 if number % 2 else 10
        picture[:, :, SIDE // 2 :] = 0
        assert picture.min() >= 0
        assert picture.max() <= 255
        return Output([ImagePiece(picture.to(torch.uint8))], "drawn")

    monkeypatch.setattr(world, "answer", answer)
    assert world.judge(judge_inpainted)["inpainted_kept_error"] == 10.0
