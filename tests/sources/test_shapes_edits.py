"""Edits of the shapes world: instructions say exactly what changes, and the judge sees it."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stages.artifacts.latents import StoredDocument, StoredImage, StoredText
from stages.core.runtime import Runtime
from stages.evaluate_model import judged
from stages.generation.config import GenerationConfig
from stages.generation.prompts import ImagePiece, Output, Prompt, TextPiece
from stages.sources.document import Document, TextSegment
from stages.sources.shapes.drawing import draw
from stages.sources.shapes.edits import EDITS, ShapesEdits
from stages.sources.shapes.judge import claims_of, judge, see
from stages.sources.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Scene, Thing, scene_from_json


def documents(edits: int = 300, heldout: int = 60) -> list[Document]:
    return list(ShapesEdits(edits=edits, heldout=heldout).documents())


def scenes(document: Document) -> tuple[Scene, Scene]:
    before, after = (scene_from_json(rows) for rows in document.labels["scenes"])
    return before, after


def text_of(document: Document) -> str:
    (text,) = (segment.text for segment in document.segments if isinstance(segment, TextSegment))
    return text


def facts(thing: Thing) -> tuple[str, str, str, str]:
    return thing.colour, thing.shape, thing.size, thing.place


def carried_out(before: Scene, text: str) -> list[tuple[str, str, str, str]]:
    """The things of the scene after the instruction, by its words alone."""
    words = text.replace("-", "_").split()
    places = [place.replace("-", "_") for place in PLACES]
    things = [list(facts(thing)) for thing in before.things]
    if words[0] == "add":
        size, colour, shape = words[2:5]
        return sorted([*map(tuple, things), (colour, shape, size, words[-1].replace("_", "-"))])  # type: ignore[list-item]
    new = words[-1] if words[0] != "remove" else ""
    name = words[1:-1] if new else words[1:]
    meant = things
    if name[0] == "the":
        meant = [thing for thing in things if thing[:2] == name[1:3]]
        if len(name) > 5 and name[5] in places:  # "the red circle at the top", then what is new
            meant = [thing for thing in meant if thing[3] == name[5].replace("_", "-")]
    assert len(meant) == 1, text
    if words[0] == "remove":
        things.remove(meant[0])
    elif words[0] == "move":
        meant[0][3] = new.replace("_", "-")
    else:
        meant[0][0 if new in COLOURS else 1 if new in SHAPES else 2] = new
        assert new in (*COLOURS, *SHAPES, *SIZES)
    return sorted(map(tuple, things))  # type: ignore[arg-type]


def test_an_instruction_carried_out_gives_the_second_scene_and_nothing_else() -> None:
    named_by_place = 0
    for document in documents():
        before, after = scenes(document)
        text = text_of(document)
        assert carried_out(before, text) == sorted(map(facts, after.things)), text
        assert sorted(map(facts, before.things)) != sorted(map(facts, after.things))
        kept = {(facts(thing), thing.x, thing.y) for thing in before.things}
        still = {(facts(thing), thing.x, thing.y) for thing in after.things}
        assert len(kept & still) >= len(kept) - 1  # what is not named stays where it was, to the pixel
        named_by_place += text.startswith(("make", "change", "remove")) and text.count(" the ") == 2
    assert named_by_place > 0


def test_heldout_edits_lead_from_new_scenes_to_new_scenes_and_training_sees_neither() -> None:
    kinds: Counter[tuple[bool, str]] = Counter()
    for document in documents():
        kinds[document.heldout, document.labels["edit"]] += 1
        for scene in scenes(document):
            assert scene.is_new == document.heldout
            assert not scene.has_new_thing
            assert 1 <= len(scene.things) <= 3
    assert set(kinds) == {(heldout, kind) for heldout in (False, True) for kind in EDITS}


def test_documents_do_not_depend_on_their_number() -> None:
    few, many = documents(5, 2), documents(40, 9)
    assert few[:2] == many[:2]
    assert few[2:] == many[9:14]
    assert ShapesEdits(edits=40, heldout=9).count() == (49, 98)
    assert [type(part).__name__ for part in few[0].segments] == ["ImageSegment", "TextSegment", "ImageSegment"]
    assert few[0].fixed_order


def test_the_judge_tells_the_edited_picture_from_the_first() -> None:
    for document in islice(iter(documents(40, 20)), 60):
        before, after = scenes(document)
        wanted = claims_of(after)
        assert judge(wanted, see(draw(after, 48))).all_right
        assert not judge(wanted, see(draw(before, 48))).all_right


@pytest.mark.parametrize(("answer", "share"), [("after", 1.0), ("before", 0.0)])
def test_the_share_of_right_edits(monkeypatch: pytest.MonkeyPatch, answer: str, share: float) -> None:
    """Of a model that draws the second picture, and of one that gives the first one back."""
    made = documents(1, 12)[:12]
    stored = [_stored(document, number) for number, document in enumerate(made)]
    pictures = {document.key: tuple(_latent(scene) for scene in scenes(document)) for document in made}

    def pieces_of(document: StoredDocument, _: Any) -> tuple[Any, ...]:
        first, second = pictures[document.key]
        return ImagePiece(first), TextPiece("an instruction"), ImagePiece(second)

    class FakeEngine:
        def __init__(self, *_: object) -> None:
            pass

        def generate(self, prompts: list[Prompt]) -> list[Output]:
            assert all(prompt.image_next and len(prompt.pieces) == 2 for prompt in prompts)
            return [Output([ImagePiece(pictures[d.key][answer == "after"])], "images") for d in stored]

    monkeypatch.setattr(judged, "pieces_of", pieces_of)
    monkeypatch.setattr(judged, "Engine", FakeEngine)
    loaded: Any = SimpleNamespace(decode_pictures=lambda x: x.permute(0, 2, 3, 1).numpy().astype(np.uint8))
    part = judged.judge_edits(loaded, stored, GenerationConfig(), 0, Runtime())
    assert part.figures["edit"] == share
    assert part.figures["edit_of_true_pictures"] == 1.0
    assert part.figures["edit_count"] == 12
    assert {item.text for item in part.judged} == {text_of(document) for document in made}


def _latent(scene: Scene) -> torch.Tensor:
    return torch.from_numpy(draw(scene, 48).astype(np.float32)).permute(2, 0, 1)


def _stored(document: Document, number: int) -> StoredDocument:
    image = StoredImage("x", number, 0, True)
    segments = (image, StoredText(text_of(document)), image)
    return StoredDocument(
        index=number,
        key=document.key,
        source="edits",
        group=None,
        fixed_order=True,
        heldout=True,
        labels=document.labels,
        segments=segments,
    )
