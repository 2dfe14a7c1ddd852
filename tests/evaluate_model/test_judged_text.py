"""The judge of texts: a description is right if it is understood and nothing in it is false, and a true relation is the likelier
one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stages.artifacts.latents import caption_of
from stages.evaluate_model import judged_text
from stages.evaluate_model.documents import scene_of, with_relation
from stages.evaluate_model.judged_text import flipped, judge_relations, judge_texts
from stages.generation.prompts import ImagePiece, Output, Prompt, TextPiece
from stages.sources.shapes.judge import judge_caption
from stages.sources.shapes.world import Scene
from tests.evaluate_model.test_judged import BLUE_CIRCLE, RED_SQUARE, only
from tests.evaluate_model.world import World, given, image_of

WRITTEN = {
    "a red square at the top-left and a blue circle at the bottom-right": (True, True),
    "a red square and another thing": (True, False),  # nothing false, not everything
    "a red square and other things": (False, False),  # two more at least
    "a square and a blue thing": (True, False),
    "a red square above a blue circle": (True, True),
    "a red square below a blue circle": (False, False),  # understood, and false
    "a blue square and a red circle": (False, False),
    "a red square, a red square and a blue circle": (False, False),  # one thing named twice
    "a red square and something": (False, False),  # not understood
    "": (False, False),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_a_caption_is_right_if_it_is_understood_and_nothing_in_it_is_false(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    true, complete = WRITTEN[text]
    world = World("new-claim", monkeypatch)
    only(world, monkeypatch, "a red square", RED_SQUARE, BLUE_CIRCLE)
    given(world, monkeypatch, [Output([TextPiece(text[:8]), TextPiece(text[8:])] if text else [], "eos")])
    part = judge_texts(world.model, world.documents)
    assert part.figures["image_to_text"] == part.figures["image_to_text_of_2"] == float(true)
    assert part.figures["image_to_text_complete"] == float(complete)
    assert part.figures["image_to_text_understood"] == float(text not in ("", "a red square and something"))
    assert part.figures["image_to_text_count"] == part.figures["image_to_text_of_2_count"] == 1
    (item,) = part.judged
    assert (item.mode, item.text, item.right) == ("image_to_text", text, true)
    ((prompt,),) = world.asked  # the picture alone: a caption in the prompt would be copied
    assert [type(piece) for piece in prompt.pieces] == [ImagePiece]
    assert prompt.max_images == 0


def test_each_picture_is_described_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captions as the world writes them are right of their own pictures; every other document gets that of the next one."""
    world = World("alike", monkeypatch)
    texts = [caption_of(document) for document in world.documents]
    chosen = [texts[(number + number % 2) % len(texts)] for number in range(len(texts))]
    given(world, monkeypatch, [Output([TextPiece(text)], "eos") for text in chosen])
    part = judge_texts(world.model, world.documents)
    truth = [
        judge_caption(text, scene_of(each)).claims_true for text, each in zip(chosen, world.documents, strict=True)
    ]
    assert all(truth[::2])
    assert not all(truth)
    assert [item.right for item in part.judged] == truth


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("a red circle left of a cross", "a red circle right of a cross"),
        ("a red circle to the right of a cross", "a red circle to the left of a cross"),
        ("a red circle above a cross and left of a square", "a red circle below a cross and left of a square"),
        ("a red circle below a cross", "a red circle above a cross"),
    ],
)
def test_the_first_relation_is_turned_around(text: str, other: str) -> None:
    assert flipped(text) == other
    assert flipped(other) == text


def related(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World("new-claim", monkeypatch)
    chosen = with_relation(world.documents)
    assert 0 < len(chosen) < len(world.documents)
    world.documents = chosen
    return world


def test_flipped_captions_of_the_world_are_false(monkeypatch: pytest.MonkeyPatch) -> None:
    for document in related(monkeypatch).documents:
        scene: Scene = scene_of(document)
        assert judge_caption(caption_of(document), scene).claims_true
        verdict = judge_caption(flipped(caption_of(document)), scene)
        assert verdict.understood
        assert not verdict.claims_true


@pytest.mark.parametrize("sign", [1, -1])
def test_a_model_is_asked_which_relation_is_likelier(monkeypatch: pytest.MonkeyPatch, sign: int) -> None:
    """One that knows the truth is right, one that knows the opposite is wrong, each time; of the picture alone."""
    world = related(monkeypatch)
    true = {caption_of(document): document for document in world.documents}

    def likelihoods(_loaded: Any, asked: Any) -> list[float]:
        for pieces, text in asked:
            document = true.get(text) or true[flipped(text)]
            own = image_of(world.model.pieces(document))
            assert pieces == (own,)
        return [-5.0 + sign * (text in true) for _, text in asked]

    monkeypatch.setattr(judged_text, "text_log_likelihoods", likelihoods)
    part = judge_relations(world.model, world.documents)
    assert part.figures == {
        "relations_by_likelihood": float(sign > 0),
        "relations_by_likelihood_count": len(world.documents),
    }
    assert {item.text for item in part.judged} == set(true)


def test_equally_likely_is_not_right(monkeypatch: pytest.MonkeyPatch) -> None:
    world = related(monkeypatch)
    monkeypatch.setattr(judged_text, "text_log_likelihoods", lambda _loaded, asked: [-3.0 for _ in asked])
    assert judge_relations(world.model, world.documents).figures["relations_by_likelihood"] == 0.0


def test_texts_are_asked_for_without_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("alike", monkeypatch)
    given(world, monkeypatch, [Output([], "eos") for _ in world.documents])
    judge_texts(world.model, world.documents)
    (prompts,) = world.asked
    for prompt, each in zip(prompts, world.held, strict=True):
        assert prompt == Prompt((image_of(each.pieces),), max_images=0)


def test_each_task_draws_at_random_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed of a task is its own, and of the run: no judge depends on which others there are."""
    world = World("alike", monkeypatch, 1)
    given(world, monkeypatch, [Output([], "eos")])
    for model in (world.model, replace(world.model, seed=1)):
        for task in ("draw", "write"):
            model.generate(task, [Prompt()])
    assert len(set(world.seeds)) == 4
