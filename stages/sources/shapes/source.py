"""The source `shapes`: caption pairs and short stories, drawn from a seed; held-out claims and combinations in documents of
their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from stages.core.config import Section
from stages.core.seeds import numpy_generator
from stages.sources.document import Document, ImageSegment, TextSegment
from stages.sources.hash_cache import KnownHashes
from stages.sources.shapes.captions import KINDS, Kind, caption
from stages.sources.shapes.claims import claims
from stages.sources.shapes.drawing import draw
from stages.sources.shapes.stories import Story, draw_story
from stages.sources.shapes.world import (
    MAX_THINGS,
    Scene,
    draw_scene,
    draw_scene_with_new_thing,
    scene_to_json,
)

# Bump when the same options give other pictures or texts: artifacts made from them become stale.
WORLD_VERSION = 7
_TRIES = 400  # of a kind of caption and a number of things before others are drawn
_ALIKE = 0.7  # for captions with counts, and for some of those with "all"
New = Literal["claim", "thing"]
SHARES: dict[Kind, float] = {
    "placed": 0.25,
    "related": 0.3,
    "counted": 0.1,
    "coloured": 0.1,
    "plain": 0.05,
    "mixed": 0.08,
    "exact": 0.06,
    "partial": 0.06,
}


@dataclass(frozen=True)
class DrawnScene:
    """A picture that is drawn when it is read."""

    scene: Scene
    size: int

    def read(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return draw(self.scene, self.size)


@dataclass(frozen=True)
class Pair:
    """A scene and a caption of some kind."""

    scene: Scene
    kind: Kind
    text: str


class Shapes(Section):
    """Drawn shapes with captions, and stories of a shape that changes. Every document is drawn from a random generator of its
    own, so that it does not depend on how many others there are."""

    kind: Literal["shapes"] = "shapes"
    """Drawn circles, squares, triangles and crosses with captions in plain English; an exact judge scores the results."""
    size: int = Field(64, ge=16, le=512)
    """Pixels of a side at which the pictures are drawn."""
    pictures: int = Field(10_000, ge=1)
    """Caption pairs for training."""
    captions: dict[Kind, float] = Field(default=SHARES)
    """Share of each kind of caption, in any unit; a kind without a share is left out. "placed" names all places; all others leave
    something open: "related", "counted", "coloured", "plain", "mixed", "exact", "partial". Of a scene of one thing only "placed",
    "coloured", "plain" and "exact" can be written, so that their shares are larger there."""
    heldout: int = Field(200, ge=0)
    """Held-out pairs whose caption states what no training caption states: another relation, or other things together."""
    heldout_things: int = Field(200, ge=0)
    """Held-out pairs with a thing whose colour, shape and region are never drawn together for training, and a caption that asks
    for it."""
    heldout_alike: int = Field(100, ge=0)
    """Held-out pairs from the same law as training: the held-out losses measure them alone."""
    interleaved: int = Field(1_000, ge=0)
    """Stories for training: two or three pictures of one thing, with a sentence about the change between them, or pictures of two
    things, one of which takes after the other."""
    heldout_interleaved: int = Field(20, ge=0)
    """Held-out stories."""
    max_things: int = Field(MAX_THINGS, ge=1, le=MAX_THINGS)
    """The most things in a picture."""
    seed: int = Field(0, ge=0)
    """Random seed of the documents; independent of the recipe's seed."""

    @field_validator("captions")
    @classmethod
    def _shares(cls, shares: dict[Kind, float]) -> dict[Kind, float]:
        if any(share < 0 for share in shares.values()) or not sum(shares.values()) > 0:
            raise ValueError("the shares must be 0 or more, and one of them above 0")
        return shares

    def documents(self) -> Iterator[Document]:
        """Held-out pairs (new claims, new things, alike), held-out stories, pairs, stories."""
        for index in range(self.heldout):
            yield self._pair(index, "claim", heldout=True)
        for index in range(self.heldout_things):
            yield self._pair(index, "thing", heldout=True)
        for index in range(self.heldout_alike):
            yield self._pair(index, None, heldout=True)
        for index in range(self.heldout_interleaved):
            yield self._story(index, heldout=True)
        for index in range(self.pictures):
            yield self._pair(index, None, heldout=False)
        for index in range(self.interleaved):
            yield self._story(index, heldout=False)

    def count(self) -> tuple[int, int]:
        """From the options; pictures of the stories are counted from the first thousand."""
        pairs = self.heldout + self.heldout_things + self.heldout_alike + self.pictures
        stories = self.heldout_interleaved + self.interleaved
        sample = min(1000, stories)
        drawn = sum(len(self._story(index, heldout=False).images) for index in range(sample))
        return pairs + stories, pairs + round(drawn * stories / max(1, sample))

    def identity(self, known: KnownHashes | None = None) -> int:
        del known  # no file is read
        return WORLD_VERSION

    def describe(self) -> str:
        documents, _ = self.count()
        stories = self.interleaved + self.heldout_interleaved
        return f"shapes: {documents - stories} drawn pairs and {stories} stories from seed {self.seed}"

    def _pair(self, index: int, new: New | None, *, heldout: bool) -> Document:
        """new: what is held out about it."""
        side = {"claim": "claim", "thing": "thing", None: "alike" if heldout else ""}[new]
        rng = numpy_generator(self.seed, f"shapes {side}", index)
        pair = draw_pair(rng, self.captions, self.max_things, new)
        name = "pair" if not heldout else f"new-{new}" if new else "alike"
        key = f"{name}-{index:06d}"
        segments = (TextSegment(pair.text), ImageSegment(key, DrawnScene(pair.scene, self.size)))
        labels = {"new": new, "caption": pair.kind, "scenes": [scene_to_json(pair.scene)]}
        return Document(key, segments, heldout=heldout, has_heldout_loss=new is None, labels=labels)

    def _story(self, index: int, *, heldout: bool) -> Document:
        rng = numpy_generator(self.seed, "shapes story heldout" if heldout else "shapes story", index)
        key = f"{'heldout-story' if heldout else 'story'}-{index:06d}"
        return story_document(key, draw_story(rng, heldout=heldout), self.size, heldout=heldout)


def story_document(key: str, story: Story, size: int, *, heldout: bool) -> Document:
    """Text and picture in turn. Held-out stories state what training never states, so that no loss is measured on them."""
    segments: list[TextSegment | ImageSegment] = []
    for number, (text, thing) in enumerate(zip(story.texts, story.things, strict=True)):
        segments += [TextSegment(text), ImageSegment(f"{key}-{number}", DrawnScene(Scene((thing,)), size))]
    labels = {"story": story.kind, "scenes": [scene_to_json(Scene((thing,))) for thing in story.things]}
    return Document(
        key, tuple(segments), fixed_order=True, heldout=heldout, has_heldout_loss=not heldout, labels=labels
    )


def draw_pair(rng: np.random.Generator, shares: dict[Kind, float], max_things: int, new: New | None) -> Pair:
    """Every number of things is equally likely, whatever the shares and what is held out.

    Args:
        rng: of this document.
        shares: of the kinds of captions.
        max_things: the most things in the scene.
        new: what the caption states: "claim", what no training caption does; "thing", a thing that is never drawn for training;
            None: what training captions state.
    """
    number = 1 + int(rng.integers(max_things))
    if new == "thing":  # its caption names a place
        shares = {kind: shares.get(kind, 0) for kind in ("placed", "mixed")}
    while True:
        kind = _drawn_kind(rng, shares, number)
        for _ in range(_TRIES):
            if new == "thing":
                scene = draw_scene_with_new_thing(rng, number)
            else:
                scene = draw_scene(rng, number, alike=_alike(kind, rng), named=kind == "placed")
            text = caption(kind, scene, rng)
            if text is not None and _belongs(text, scene, new):
                return Pair(scene, kind, text)
        # Some kinds have no caption that is held out: no count of two things is.
        shares = {other: share for other, share in shares.items() if other != kind}


def _alike(kind: Kind, rng: np.random.Generator) -> float:
    return _ALIKE if kind == "counted" or (kind == "exact" and rng.random() < 0.4) else 0.0


def _belongs(text: str, scene: Scene, new: New | None) -> bool:
    claimed = claims(text)
    assert claimed is not None, text
    if new == "claim":
        return claimed.is_heldout
    if new == "thing":
        asked = {(claim.colour, claim.shape, claim.place) for claim in claimed.things}
        return any((thing.colour, thing.shape, thing.place) in asked for thing in scene.things if thing.heldout)
    return claimed.may_be_trained


def _drawn_kind(rng: np.random.Generator, shares: dict[Kind, float], number: int) -> Kind:
    """One of the kinds that scenes of so many things can have; "placed" where none of those asked for can be."""
    fitting = {kind: share for kind, share in shares.items() if share > 0 and number >= _least(kind)}
    if not fitting:
        fitting = {"placed": 1.0}
    kinds = sorted(fitting, key=KINDS.index)
    weights = np.array([fitting[kind] for kind in kinds])
    return kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]


def _least(kind: Kind) -> int:
    """Things that a caption of that kind needs."""
    return 2 if kind in ("related", "counted", "mixed", "partial") else 1
