"""The source `shapes-edits`: a picture, an instruction, and the picture that follows from it; held-out edits ask for what
training never asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field

from stages.core.config import Section
from stages.core.seeds import numpy_generator
from stages.sources.document import Document, ImageSegment, TextSegment
from stages.sources.hash_cache import KnownHashes
from stages.sources.shapes.captions import one_of, place_words
from stages.sources.shapes.source import WORLD_VERSION, DrawnScene
from stages.sources.shapes.stories import LEAST_MOVE, distance
from stages.sources.shapes.world import (
    COLOURS,
    MAX_THINGS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    draw_scene,
    draw_thing,
    fits,
    moved,
    one_in_ten,
    scene_to_json,
)

EDITS_OF_ONE = ("colour", "size", "shape", "place")
EDITS = (*EDITS_OF_ONE, "remove", "add")
_TRIES = 20  # edits of a scene before another one is drawn


@dataclass(frozen=True)
class Edit:
    """What is asked of a scene, in which way, and what it becomes."""

    kind: str
    text: str
    after: Scene

    @property
    def is_heldout(self) -> bool:
        """Whether training never asks for it: the instruction, and how many things there are after it."""
        return one_in_ten(f"edit: {self.text} {len(self.after.things)}")


class ShapesEdits(Section):
    """Edits of drawn shapes. Each document is drawn from a random generator of its own."""

    kind: Literal["shapes-edits"] = "shapes-edits"
    """Drawn shapes, an instruction such as "make the red circle blue", and the changed picture."""
    size: int = Field(64, ge=16, le=512)
    """Pixels of a side at which the pictures are drawn."""
    edits: int = Field(8_000, ge=1)
    """Edits for training."""
    heldout: int = Field(200, ge=0)
    """Held-out edits, with instructions that training never gives for a scene of so many things."""
    max_things: int = Field(3, ge=1, le=MAX_THINGS)
    """The most things in a picture."""
    seed: int = Field(0, ge=0)
    """Random seed of the documents; independent of the recipe's seed."""

    def documents(self) -> Iterator[Document]:
        """Held-out edits, edits."""
        for index in range(self.heldout):
            yield self._edit(index, heldout=True)
        for index in range(self.edits):
            yield self._edit(index, heldout=False)

    def count(self) -> tuple[int, int]:
        """From the options."""
        return self.heldout + self.edits, 2 * (self.heldout + self.edits)

    def identity(self, known: KnownHashes | None = None) -> int:
        del known  # no file is read
        return WORLD_VERSION

    def describe(self) -> str:
        return f"shapes-edits: {self.edits + self.heldout} drawn edits from seed {self.seed}"

    def _edit(self, index: int, *, heldout: bool) -> Document:
        rng = numpy_generator(self.seed, f"shapes edit{' heldout' if heldout else ''}", index)
        key = f"{'heldout-edit' if heldout else 'edit'}-{index:06d}"
        kind = one_of(EDITS if self.max_things > 1 else EDITS_OF_ONE, rng)
        before, edit = None, None
        while before is None or edit is None:
            before = draw_scene(rng, 1 + int(rng.integers(self.max_things)))
            tries = (draw_edit(kind, before, self.max_things, rng) for _ in range(_TRIES))
            fitting = (one for one in tries if one and not one.after.has_new_thing and one.is_heldout == heldout)
            edit = next(fitting, None)
        first, second = (
            ImageSegment(f"{key}-{number}", DrawnScene(scene, self.size))
            for number, scene in enumerate((before, edit.after))
        )
        labels = {"edit": edit.kind, "scenes": [scene_to_json(before), scene_to_json(edit.after)]}
        segments = (first, TextSegment(edit.text), second)
        return Document(key, segments, fixed_order=True, heldout=heldout, has_heldout_loss=not heldout, labels=labels)


def draw_edit(kind: str, scene: Scene, max_things: int, rng: np.random.Generator) -> Edit | None:
    """A visible change of that kind and its instruction; None where the scene, or this draw, allows none."""
    thing = one_of(scene.things, rng)
    others = tuple(each for each in scene.things if each is not thing)
    if kind == "add":
        new = draw_thing(rng)
        if len(scene.things) == max_things or new.place is None or not fits(new, scene.things):
            return None
        text = f"add a {new.size} {new.colour} {new.shape} {place_words(new.place)}"
        return Edit(kind, text, Scene((*scene.things, new)))
    name = _named(thing, others, rng)
    if name is None:
        return None
    if kind == "remove":
        return Edit(kind, f"remove {name}", Scene(others)) if others else None
    if kind == "colour":
        changed = replace(thing, colour=one_of(tuple(COLOURS), rng))
        text = f"make {name} {changed.colour}"
    elif kind == "size":
        changed = replace(thing, size=one_of(tuple(SIZES), rng))
        text = f"make {name} {changed.size}"
    elif kind == "shape":
        changed = replace(thing, shape=one_of(SHAPES, rng))
        text = f"change {name} into a {changed.shape}"
    else:
        changed = moved(thing, rng)
        if changed.place in (None, thing.region) or distance(thing, changed) < LEAST_MOVE:
            return None
        text = f"move {name} to the {changed.place}"
    if changed == thing or not fits(changed, others):
        return None
    return Edit(kind, text, Scene(tuple(changed if each is thing else each for each in scene.things)))


def _named(thing: Thing, others: tuple[Thing, ...], rng: np.random.Generator) -> str | None:
    """A name that only this thing of the scene has; None where there is none."""
    if not others and rng.random() < 0.5:
        return "it"
    alike = [each for each in others if (each.colour, each.shape) == (thing.colour, thing.shape)]
    name = f"the {thing.colour} {thing.shape}"
    if not alike:
        return name
    if thing.place is None or any(each.place in (None, thing.place) for each in alike):
        return None
    return f"{name} {place_words(thing.place)}"
