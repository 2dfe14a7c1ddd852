"""What can be in a picture: things with a shape, a colour, a size and a place on a 3 x 3 grid; and what is held out.

Lengths are shares of the picture's side, so that one scene can be drawn at any size.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross")
# Red, green, blue, yellow, purple and cyan are at least 23 degrees apart as seen from the near-white ground, so that a
# blurred edge (a mixture with the ground) still points to its colour.
COLOURS = {
    "red": (220, 40, 40),
    "green": (60, 190, 80),
    "blue": (40, 80, 220),
    "yellow": (235, 200, 40),
    "purple": (150, 40, 200),
    "cyan": (40, 190, 220),
}
GROUND = (245, 245, 245)
SIZES = {"small": 0.095, "large": 0.14}
# One word a place, so that a tokenizer can make one piece of it.
PLACES = ("top-left", "top", "top-right", "left", "center", "right", "bottom-left", "bottom", "bottom-right")
JITTER = 0.012
MAX_THINGS = 3
# One in ten of the 216 combinations of colour, shape and place, and one in ten of all scenes (the set of their things
# with colour, shape and place, whatever the sizes), is never drawn for training.
_HELDOUT_SHARE = 10


@dataclass(frozen=True)
class Thing:
    """One shape. column and row count from 0 at the top left; x and y are the centre."""

    shape: str
    colour: str
    size: str
    column: int
    row: int
    x: float
    y: float

    @property
    def place(self) -> str:
        return PLACES[3 * self.row + self.column]

    @property
    def heldout(self) -> bool:
        return is_heldout(self.colour, self.shape, self.place)


@dataclass(frozen=True)
class Scene:
    """One to three things in different cells."""

    things: tuple[Thing, ...]

    @property
    def has_new_thing(self) -> bool:
        """Whether a thing is in it whose colour, shape and place are never drawn together for training."""
        return any(thing.heldout for thing in self.things)

    @property
    def is_new(self) -> bool:
        """Whether this very set of things is kept out of training in all sizes, though each of them is drawn there.

        In all sizes, because many captions name none: the same scene with another size would answer them.
        """
        names = sorted(f"{thing.colour}/{thing.shape}/{thing.place}" for thing in self.things)
        return not self.has_new_thing and _one_in_ten("scene: " + "; ".join(names))

    @property
    def heldout(self) -> bool:
        return self.has_new_thing or self.is_new


@cache
def is_heldout(colour: str, shape: str, place: str) -> bool:
    """Whether the combination is kept out of every training picture: a fixed property of the world, not of a seed."""
    return _one_in_ten(f"{colour}/{shape}/{place}")


def _one_in_ten(name: str) -> bool:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % _HELDOUT_SHARE == 0


@cache
def heldout_combinations() -> tuple[tuple[str, str, str], ...]:
    """All held-out (colour, shape, place)."""
    return tuple((c, s, p) for c in COLOURS for s in SHAPES for p in PLACES if is_heldout(c, s, p))


def draw_thing(rng: np.random.Generator, cell: int) -> Thing:
    """A thing with random attributes in a cell."""
    row, column = divmod(cell, 3)
    x, y = (np.array([column, row]) + 0.5) / 3 + rng.uniform(-JITTER, JITTER, 2)
    return Thing(
        shape=SHAPES[rng.integers(len(SHAPES))],
        colour=list(COLOURS)[rng.integers(len(COLOURS))],
        size=list(SIZES)[rng.integers(len(SIZES))],
        column=column,
        row=row,
        x=round(float(x), 5),
        y=round(float(y), 5),
    )


def draw_scene(rng: np.random.Generator, max_things: int = MAX_THINGS) -> Scene:
    """A training scene: nothing held out. Every number of things is equally likely."""
    while True:
        scene = _any_scene(rng, max_things)
        if not scene.heldout:
            return scene


def draw_new_scene(rng: np.random.Generator, max_things: int = MAX_THINGS) -> Scene:
    """A scene that is held out as a whole, of things that training shows; numbers of things as in training."""
    while True:
        scene = _any_scene(rng, max_things)
        if scene.is_new:
            return scene


def _any_scene(rng: np.random.Generator, max_things: int) -> Scene:
    things: list[Thing] = []
    for cell in rng.choice(9, 1 + rng.integers(max_things), replace=False):
        thing = draw_thing(rng, int(cell))
        while thing.heldout:
            thing = draw_thing(rng, int(cell))
        things.append(thing)
    return Scene(tuple(things))


def draw_scene_with_new_thing(rng: np.random.Generator, max_things: int = MAX_THINGS) -> Scene:
    """A scene with at least one held-out combination; the others are drawn as for training."""
    colour, shape, place = heldout_combinations()[rng.integers(len(heldout_combinations()))]
    cell = PLACES.index(place)
    special = replace(draw_thing(rng, cell), colour=colour, shape=shape)
    others = [
        thing for thing in draw_scene(rng, max_things).things if (thing.column, thing.row) != divmod(cell, 3)[::-1]
    ]
    things = [special, *others[: max_things - 1]]
    return Scene(tuple(things[index] for index in rng.permutation(len(things))))


def scene_to_json(scene: Scene) -> list[dict[str, Any]]:
    return [dict(vars(thing)) for thing in scene.things]


def scene_from_json(rows: list[dict[str, Any]]) -> Scene:
    return Scene(tuple(Thing(**row) for row in rows))
