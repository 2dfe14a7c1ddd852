"""The source `shapes-edits`: a picture, an instruction, and the picture that follows from it; held-out edits lead from new
scenes to new scenes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from pydantic import Field

from stages.core.config import Section
from stages.core.seeds import numpy_generator
from stages.sources.document import Document, ImageSegment, TextSegment
from stages.sources.hash_cache import KnownHashes
from stages.sources.shapes.language import place_words
from stages.sources.shapes.source import WORLD_VERSION, DrawnScene
from stages.sources.shapes.world import (
    COLOURS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    draw_new_scene,
    draw_scene,
    draw_thing,
    scene_to_json,
)

EDITS = ("colour", "size", "shape", "place", "remove", "add")
_TRIES = 20  # edits of a scene before another one is drawn
T = TypeVar("T")


@dataclass(frozen=True)
class Edit:
    """What is asked of a scene, in which way, and what it becomes."""

    kind: str
    text: str
    after: Scene


class ShapesEdits(Section):
    """Edits of drawn shapes. Each document is drawn from a random generator of its own."""

    kind: Literal["shapes-edits"] = "shapes-edits"
    """Drawn shapes, an instruction such as "make the red circle blue", and the changed picture."""
    size: int = Field(64, ge=16, le=512)
    """Pixels of a side at which the pictures are drawn."""
    edits: int = Field(8_000, ge=1)
    """Edits for training."""
    heldout: int = Field(200, ge=0)
    """Held-out edits, from and to pictures that are never drawn for training."""
    max_things: int = Field(3, ge=1, le=3)
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
        kind = _one(EDITS, rng)  # before the scene: most edits of a new scene lead to one that is not
        before, edit = None, None
        while before is None or edit is None:
            before = (draw_new_scene if heldout else draw_scene)(rng, self.max_things)
            tries = (draw_edit(kind, before, self.max_things, rng) for _ in range(_TRIES))
            fitting = (one for one in tries if one and not one.after.has_new_thing and one.after.is_new == heldout)
            edit = next(fitting, None)
        first, second = (
            ImageSegment(f"{key}-{number}", DrawnScene(scene, self.size))
            for number, scene in enumerate((before, edit.after))
        )
        labels = {"edit": edit.kind, "scenes": [scene_to_json(before), scene_to_json(edit.after)]}
        segments = (first, TextSegment(edit.text), second)
        return Document(key, segments, fixed_order=True, heldout=heldout, labels=labels)


def draw_edit(kind: str, scene: Scene, max_things: int, rng: np.random.Generator) -> Edit | None:
    """A visible change of that kind and its instruction; None where the scene allows none."""
    number = int(rng.integers(len(scene.things)))
    thing = scene.things[number]
    free = [cell for cell in range(9) if cell not in {3 * each.row + each.column for each in scene.things}]
    if kind == "add":
        if len(scene.things) == max_things:
            return None
        new = draw_thing(rng, _one(free, rng))
        text = f"add a {new.size} {new.colour} {new.shape} {place_words(new.place)}"
        return Edit(kind, text, Scene((*scene.things, new)))
    name = _named(thing, scene, rng)
    if kind == "remove":
        if len(scene.things) == 1:
            return None
        left = tuple(each for each in scene.things if each is not thing)
        return Edit(kind, f"remove {name}", Scene(left))
    if kind == "colour":
        changed = replace(thing, colour=_one([each for each in COLOURS if each != thing.colour], rng))
        text = f"make {name} {changed.colour}"
    elif kind == "size":
        changed = replace(thing, size=_one([each for each in SIZES if each != thing.size], rng))
        text = f"make {name} {changed.size}"
    elif kind == "shape":
        changed = replace(thing, shape=_one([each for each in SHAPES if each != thing.shape], rng))
        text = f"change {name} into a {changed.shape}"
    else:
        there = draw_thing(rng, _one(free, rng))
        changed = replace(thing, column=there.column, row=there.row, x=there.x, y=there.y)
        text = f"move {name} to the {changed.place}"
    things = tuple(changed if each is thing else each for each in scene.things)
    return Edit(kind, text, Scene(things))


def _named(thing: Thing, scene: Scene, rng: np.random.Generator) -> str:
    """A name that only this thing of the scene has."""
    if len(scene.things) == 1 and rng.random() < 0.5:
        return "it"
    alike = [each for each in scene.things if (each.colour, each.shape) == (thing.colour, thing.shape)]
    name = f"the {thing.colour} {thing.shape}"
    return name if len(alike) == 1 else f"{name} {place_words(thing.place)}"


def _one(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]
