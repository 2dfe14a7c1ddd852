"""The source `shapes`: caption pairs and short stories, drawn from a seed; held-out combinations in documents of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from stages.core.config import Section
from stages.core.seeds import numpy_generator
from stages.sources.document import Document, ImageSegment, Segment, TextSegment
from stages.sources.hash_cache import KnownHashes
from stages.sources.shapes.drawing import draw
from stages.sources.shapes.language import caption, first_text, turn
from stages.sources.shapes.world import (
    COLOURS,
    JITTER,
    SIZES,
    Scene,
    Thing,
    draw_new_scene,
    draw_scene,
    draw_scene_with_new_thing,
    scene_to_json,
)

# Bump when the same options give other pictures or texts: artifacts made from them become stale.
WORLD_VERSION = 5


@dataclass(frozen=True)
class DrawnScene:
    """A picture that is drawn when it is read."""

    scene: Scene
    size: int

    def read(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return draw(self.scene, self.size)


class Shapes(Section):
    """Drawn shapes with captions, and stories of a shape that changes. Every document is drawn from a random generator of its
    own, so that it does not depend on how many others there are."""

    kind: Literal["shapes"] = "shapes"
    """Drawn circles, squares, triangles and crosses with captions in plain English; an exact judge scores the results."""
    size: int = Field(64, ge=16, le=512)
    """Pixels of a side at which the pictures are drawn."""
    pictures: int = Field(10_000, ge=1)
    """Caption pairs for training."""
    heldout: int = Field(200, ge=0)
    """Held-out pairs whose set of things (shape, colour and place of each) is never drawn for training."""
    heldout_things: int = Field(200, ge=0)
    """Held-out pairs with a thing whose colour, shape and place are never drawn together for training; harder than heldout."""
    interleaved: int = Field(1_000, ge=0)
    """Stories for training: two or three pictures of one thing, with a sentence about the change between them."""
    heldout_interleaved: int = Field(20, ge=0)
    """Held-out stories."""
    max_things: int = Field(3, ge=1, le=3)
    """The most things in a picture."""
    seed: int = Field(0, ge=0)
    """Random seed of the documents; independent of the recipe's seed."""

    def documents(self) -> Iterator[Document]:
        """Held-out pairs, held-out stories, pairs, stories."""
        for index in range(self.heldout):
            yield self._pair(index, "scene")
        for index in range(self.heldout_things):
            yield self._pair(index, "thing")
        for index in range(self.heldout_interleaved):
            yield self._story(index, heldout=True)
        for index in range(self.pictures):
            yield self._pair(index, None)
        for index in range(self.interleaved):
            yield self._story(index, heldout=False)

    def count(self) -> tuple[int, int]:
        """From the options; pictures of the stories are counted from the first thousand."""
        pairs, stories = self.heldout + self.heldout_things + self.pictures, self.heldout_interleaved + self.interleaved
        sample = min(1000, stories)
        drawn = sum(len(self._story(index, heldout=False).images) for index in range(sample))
        return pairs + stories, pairs + round(drawn * stories / max(1, sample))

    def identity(self, known: KnownHashes | None = None) -> int:
        del known  # no file is read
        return WORLD_VERSION

    def describe(self) -> str:
        pairs = self.pictures + self.heldout + self.heldout_things
        stories = self.interleaved + self.heldout_interleaved
        return f"shapes: {pairs} drawn pairs and {stories} stories from seed {self.seed}"

    def _pair(self, index: int, new: Literal["scene", "thing"] | None) -> Document:
        """new: what is held out about it, None for training."""
        rng = numpy_generator(self.seed, f"shapes {new or ''}", index)
        draw_one = {"scene": draw_new_scene, "thing": draw_scene_with_new_thing, None: draw_scene}[new]
        scene = draw_one(rng, self.max_things)
        key = f"{f'new-{new}' if new else 'pair'}-{index:06d}"
        segments = (TextSegment(caption(scene, rng)), ImageSegment(key, DrawnScene(scene, self.size)))
        return Document(key, segments, heldout=new is not None, labels={"new": new, "scenes": [scene_to_json(scene)]})

    def _story(self, index: int, *, heldout: bool) -> Document:
        """One thing, then the same thing after one or two changes."""
        purpose = "shapes story heldout" if heldout else "shapes story"
        rng = numpy_generator(self.seed, purpose, index)
        thing = (draw_new_scene if heldout else draw_scene)(rng, 1).things[0]
        key = f"{'heldout-story' if heldout else 'story'}-{index:06d}"
        things = [thing]
        segments: list[Segment] = [TextSegment(first_text(thing, rng))]
        for number in range(2 + int(rng.integers(2))):
            if number:
                things.append(_changed(things[-1], rng))
                segments.append(TextSegment(turn(things[-2], things[-1])))
            segments.append(ImageSegment(f"{key}-{number}", DrawnScene(Scene((things[-1],)), self.size)))
        labels = {"scenes": [scene_to_json(Scene((thing,))) for thing in things]}
        return Document(key, tuple(segments), fixed_order=True, heldout=heldout, labels=labels)


def _changed(thing: Thing, rng: np.random.Generator) -> Thing:
    """The thing with another colour, size or place, never a held-out combination."""
    while True:
        what = rng.integers(3)
        if what == 0:
            changed = replace(thing, colour=list(COLOURS)[rng.integers(len(COLOURS))])
        elif what == 1:
            changed = replace(thing, size=next(size for size in SIZES if size != thing.size))
        else:
            row, column = divmod(int(rng.integers(9)), 3)
            x, y = (np.array([column, row]) + 0.5) / 3 + rng.uniform(-JITTER, JITTER, 2)
            changed = replace(thing, column=column, row=row, x=round(float(x), 5), y=round(float(y), 5))
        visible = (changed.colour, changed.size, changed.place) != (thing.colour, thing.size, thing.place)
        if visible and not Scene((changed,)).heldout:
            return changed
