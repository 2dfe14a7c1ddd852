"""Documents of the world of shapes that several tests read, drawn once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

from stages.core.seeds import numpy_generator
from stages.sources.document import Document, TextSegment
from stages.sources.shapes.captions import KINDS, Kind, caption
from stages.sources.shapes.source import Shapes
from stages.sources.shapes.world import MAX_THINGS, Scene, draw_scene, scene_from_json

NONE: dict[str, Any] = {
    "pictures": 1, "heldout": 0, "heldout_things": 0, "heldout_alike": 0, "interleaved": 0, "heldout_interleaved": 0
}  # fmt: skip


def documents(**options: Any) -> tuple[Document, ...]:
    """Documents of the sides that are named; always one training pair at least."""
    return tuple(Shapes(**{**NONE, **options}).documents())


@cache
def training() -> tuple[Document, ...]:
    """Pairs and stories for training."""
    return documents(pictures=1500, interleaved=600)


@cache
def heldout() -> tuple[Document, ...]:
    """All held-out sides."""
    drawn = documents(heldout=150, heldout_things=100, heldout_alike=60, heldout_interleaved=60)
    return tuple(document for document in drawn if document.heldout)


def texts_of(document: Document) -> list[str]:
    return [segment.text for segment in document.segments if isinstance(segment, TextSegment)]


def scenes_of(document: Document) -> list[Scene]:
    return [scene_from_json(rows) for rows in document.labels["scenes"]]


def captioned(count: int) -> Iterator[tuple[Kind, Scene, str]]:
    """Scenes of every number of things with captions of every kind, as many tries of each, whatever they claim."""
    for number, (things, kind) in product(range(count), product(range(1, MAX_THINGS + 1), KINDS)):
        rng = numpy_generator(things, f"test {kind}", number)
        scene = draw_scene(rng, things, alike=0.6 * (number % 2), named=number % 3 == 0)
        text = caption(kind, scene, rng)
        if text is not None:
            yield kind, scene, text
