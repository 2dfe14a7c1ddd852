"""A stand-in for a trained model, for tests of the judges: documents of the shapes world, and answers that a test chooses. A
latent is the picture itself, so that nothing is trained, encoded or decoded."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stages.artifacts.latents import StoredDocument, StoredImage, StoredText
from stages.core.runtime import Runtime
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
        order = (document.key, document.group, document.fixed_order, document.heldout, document.labels)
        found.append((StoredDocument(index, *order, tuple(segments), "pictures"), tuple(pieces)))
    return found


class World:
    """A model whose answers `answer` gives, from the pieces of the document that it is asked about."""

    def __init__(self, kind: str, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        """module: the one whose judges ask it."""
        self.documents = documents(kind)
        self.loaded: Any = SimpleNamespace(latent_shape=(3, SIDE, SIDE))
        self.asked: list[Prompt] = []
        pieces = {document.index: found for document, found in self.documents}
        monkeypatch.setattr(module, "pieces_of", lambda document, _loaded: pieces[document.index])
        monkeypatch.setattr(
            module,
            "generated_pictures",
            lambda _loaded, latents: [latent.permute(1, 2, 0).numpy() for latent in latents],
        )
        monkeypatch.setattr(module, "Engine", self._engine)

    def _engine(self, _loaded: Any, config: GenerationConfig, _seed: int, _runtime: Runtime) -> World:
        self.settings = config
        return self

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
