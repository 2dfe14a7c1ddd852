"""A stand-in for a trained model, for tests of the judges: documents of the shapes world, and answers that a test chooses. A
latent is the picture itself, so that nothing is trained, encoded or decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stages.artifacts.latents import StoredDocument, StoredImage, StoredText
from stages.core.runtime import Runtime
from stages.evaluate_model import judging
from stages.evaluate_model.judging import Evaluated
from stages.generation.config import GenerationConfig
from stages.generation.prompts import ImagePiece, Output, Piece, Prompt, TextPiece
from stages.sources.document import Document, TextSegment
from stages.sources.shapes.drawing import draw
from stages.sources.shapes.edits import ShapesEdits
from stages.sources.shapes.source import Shapes
from stages.sources.shapes.world import Scene, Thing

SIDE = 64
SHAPES = Shapes(
    size=SIDE,
    heldout=40,
    heldout_things=10,
    heldout_alike=10,
    heldout_interleaved=80,
    pictures=1,
    interleaved=0,
)
EDITS = ShapesEdits(size=SIDE, heldout=30, edits=1)


@dataclass(frozen=True)
class Held:
    """A held-out document with its true pieces."""

    document: StoredDocument
    pieces: tuple[Piece, ...]


@cache
def held(kind: str) -> tuple[Held, ...]:
    """The documents of the world whose key begins with kind."""
    source = EDITS if kind == "heldout-edit" else SHAPES
    every = enumerate(source.documents())
    return tuple(_held(number, document) for number, document in every if document.key.startswith(kind))


def _held(index: int, document: Document) -> Held:
    segments: list[StoredText | StoredImage] = []
    pieces: list[Piece] = []
    for number, segment in enumerate(document.segments):
        if isinstance(segment, TextSegment):
            segments.append(StoredText(segment.text))
            pieces.append(TextPiece(segment.text))
        else:
            segments.append(StoredImage(number, 0, segment.name, True))
            pieces.append(_image(np.array(segment.picture.read())))
    order = (document.key, document.group, document.fixed_order, document.heldout, document.has_heldout_loss)
    return Held(StoredDocument(index, *order, document.labels, tuple(segments), "pictures"), tuple(pieces))


def picture(*things: Thing) -> ImagePiece:
    return _image(draw(Scene(things), SIDE))


def thing(shape: str, colour: str, x: float, y: float, size: str = "large") -> Thing:
    return Thing(shape, colour, size, x, y)


def image_of(pieces: Sequence[Piece]) -> ImagePiece:
    """The only image of them."""
    (own,) = (piece for piece in pieces if isinstance(piece, ImagePiece))
    return own


def _image(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> ImagePiece:
    return ImagePiece(torch.from_numpy(pixels).permute(2, 0, 1))


class World:
    """A model whose answers `answer` gives. asked: the prompts of each task, in order. settings: of the last one."""

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch, count: int | None = None) -> None:
        """count: how many documents; all of the kind by default."""
        self.held = held(kind)[:count]
        assert self.held
        self.documents = [each.document for each in self.held]
        self.asked: list[list[Prompt]] = []
        self.seeds: list[int] = []
        self.settings = GenerationConfig()
        pieces = {each.document.key: each.pieces for each in held(kind)}
        monkeypatch.setattr(judging, "pieces_of", lambda document, _loaded: pieces[document.key])
        monkeypatch.setattr(judging, "Engine", self._engine)
        loaded: Any = SimpleNamespace(
            latent_shape=(3, SIDE, SIDE),
            decode_pictures=lambda latents: latents.permute(0, 2, 3, 1).numpy(),
        )
        self.model = Evaluated(loaded, GenerationConfig(), 0, Runtime())

    def _engine(self, _loaded: Any, config: GenerationConfig, seed: int, _runtime: Runtime) -> World:
        self.settings = config
        self.seeds.append(seed)
        return self

    def generate(self, prompts: Sequence[Prompt]) -> list[Output]:
        self.asked.append(list(prompts))
        return [self.answer(number, prompt) for number, prompt in enumerate(prompts)]

    def answer(self, number: int, prompt: Prompt) -> Output:
        """What the document has after what is given of it."""
        pieces = self.held[number].pieces
        if prompt.image_next:
            return Output(
                [next(piece for piece in pieces[len(prompt.pieces) :] if isinstance(piece, ImagePiece))], "drawn"
            )
        return Output(list(pieces[len(prompt.pieces) :]), "eos")


def given(world: World, monkeypatch: pytest.MonkeyPatch, answers: Sequence[Output]) -> None:
    """The world answers with these, in order."""
    monkeypatch.setattr(world, "answer", lambda number, _prompt: answers[number])
