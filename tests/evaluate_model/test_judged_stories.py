"""The judge of stories and of filled holes: right for what the world itself draws, wrong for each kind of mistake."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stages.artifacts.latents import StoredDocument, StoredImage, StoredText
from stages.core.runtime import Runtime
from stages.evaluate_model import judged_stories
from stages.evaluate_model.judged_stories import judge_continued, judge_inpainted, judge_turned, with_thing_at_right
from stages.generation.config import GenerationConfig
from stages.generation.prompts import ImagePiece, Output, Prompt, TextPiece
from stages.sources.document import TextSegment
from stages.sources.shapes.source import Shapes

SIDE = 48
SHAPES = Shapes(size=SIDE, heldout=20, heldout_things=0, heldout_interleaved=20, pictures=1, interleaved=0)


def documents(kind: str) -> list[tuple[StoredDocument, tuple[Any, ...]]]:
    """Documents of the world with their pieces; a latent here is the picture itself, (3, side, side)."""
    found = []
    for index, document in enumerate(SHAPES.documents()):
        if not document.key.startswith(kind):
            continue
        segments: list[StoredText | StoredImage] = []
        pieces: list[TextPiece | ImagePiece] = []
        for number, segment in enumerate(document.segments):
            if isinstance(segment, TextSegment):
                segments.append(StoredText(segment.text))
                pieces.append(TextPiece(segment.text))
            else:
                segments.append(StoredImage(number, 0, segment.name, True))
                pieces.append(ImagePiece(torch.from_numpy(np.array(segment.picture.read())).permute(2, 0, 1)))
        order = (document.key, document.group, document.fixed_order, document.heldout, document.facts)
        found.append((StoredDocument(index, *order, tuple(segments), "pictures"), tuple(pieces)))
    return found


class World:
    """A model whose answers `answer` gives, from the pieces of the document that it is asked about."""

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.documents = documents(kind)
        self.loaded: Any = SimpleNamespace(latent_shape=(3, SIDE, SIDE))
        self.asked: list[Prompt] = []
        pieces = {document.index: found for document, found in self.documents}
        monkeypatch.setattr(judged_stories, "pieces_of", lambda document, _loaded: pieces[document.index])
        monkeypatch.setattr(
            judged_stories,
            "pictures_of",
            lambda _loaded, latents: [latent.permute(1, 2, 0).numpy() for latent in latents],
        )
        monkeypatch.setattr(judged_stories, "Engine", lambda *_: self)

    def generate(self, prompts: list[Prompt]) -> list[Output]:
        self.asked = prompts
        return [
            self.answer(number, prompt, found)
            for number, (prompt, (_, found)) in enumerate(zip(prompts, self.documents, strict=True))
        ]

    def answer(self, _number: int, prompt: Prompt, found: tuple[Any, ...]) -> Output:
        return Output(list(found[len(prompt.pieces) :]), "eos")

    def judge(self, function: Any) -> dict[str, Any]:
        stories = [document for document, _ in self.documents]
        figures: dict[str, Any] = function(self.loaded, stories, GenerationConfig(), 0, Runtime()).figures
        return figures


def test_a_story_as_the_world_tells_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("heldout-story", monkeypatch)
    figures = world.judge(judge_continued)
    assert figures == {"continued": 1.0, "continued_pictures": 1.0, "continued_ended": 1.0, "continued_count": 20}
    assert all(len(prompt.pieces) == 2 for prompt in world.asked)
    assert any(len(found) > 4 for _, found in world.documents)


@pytest.mark.parametrize("fault", ["no turn", "another turn", "the old picture", "no end", "nothing"])
def test_each_mistake_of_a_story_counts(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    world = World("heldout-story", monkeypatch)

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
    world = World("heldout-story", monkeypatch)

    def answer(number: int, _prompt: Prompt, found: tuple[Any, ...]) -> Output:
        return Output([found[3 if number % 2 else 1]], "images")

    monkeypatch.setattr(world, "answer", answer)
    figures = world.judge(judge_turned)
    assert figures["turned"] == 0.5
    # never a size: a new thing that only changes its size is a new thing still, which no turn makes
    assert {name for name in figures if name.startswith("turned_")} == {"turned_colour", "turned_place", "turned_count"}


def test_what_is_filled_in_is_judged_by_the_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("new-scene", monkeypatch)
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
