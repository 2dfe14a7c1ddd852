"""What can be in a picture: up to four things with a shape, a colour, a size and a position; and which ones training never sees.

Lengths are shares of the picture's side, so that one scene can be drawn at any size. Positions are continuous. A place is one of
nine regions, the thirds of the picture across and down; a thing whose centre is within PLACE_MARGIN of a border between two
regions has no place that a caption names.
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
PLACE_MARGIN = 0.03
RELATION_MARGIN = 0.1  # by which two centres differ before a caption states a relation between them
MAX_THINGS = 4
_EDGE = 0.02  # from a thing to the edge of the picture
_GAP = 0.06  # between two things, across or down
# One in ten of the 216 combinations of colour, shape and region is never drawn for training.
_HELDOUT_SHARE = 10


@dataclass(frozen=True)
class Thing:
    """One shape. x and y are its centre, from the top left."""

    shape: str
    colour: str
    size: str
    x: float
    y: float

    @property
    def region(self) -> str:
        """The region that its centre is in."""
        return region_of(self.x, self.y)

    @property
    def place(self) -> str | None:
        """The region's name where a caption may state it; None where the centre is too close to a border."""
        near = any(abs(value - border) < PLACE_MARGIN for value in (self.x, self.y) for border in (1 / 3, 2 / 3))
        return None if near else self.region

    @property
    def heldout(self) -> bool:
        return is_heldout(self.colour, self.shape, self.region)


@dataclass(frozen=True)
class Scene:
    """One to four things that do not overlap."""

    things: tuple[Thing, ...]

    @property
    def has_new_thing(self) -> bool:
        """Whether a thing is in it whose colour, shape and region are never drawn together for training."""
        return any(thing.heldout for thing in self.things)


def region_of(x: float, y: float) -> str:
    """The region of a point; outside of the picture the nearest one."""
    column, row = (min(2, max(0, int(value * 3))) for value in (x, y))
    return PLACES[3 * row + column]


@cache
def is_heldout(colour: str, shape: str, region: str) -> bool:
    """Whether the combination is kept out of every training picture: a fixed property of the world, not of a seed."""
    return one_in_ten(f"{colour}/{shape}/{region}")


def one_in_ten(name: str) -> bool:
    """A fixed tenth of all names."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % _HELDOUT_SHARE == 0


@cache
def heldout_combinations() -> tuple[tuple[str, str, str], ...]:
    """All held-out (colour, shape, region)."""
    return tuple((c, s, p) for c in COLOURS for s in SHAPES for p in PLACES if is_heldout(c, s, p))


def draw_thing(rng: np.random.Generator) -> Thing:
    """A thing with random attributes anywhere in the picture."""
    size = list(SIZES)[rng.integers(len(SIZES))]
    colour, shape = list(COLOURS)[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]
    return moved(Thing(shape, colour, size, 0.5, 0.5), rng)


def moved(thing: Thing, rng: np.random.Generator) -> Thing:
    """The thing at a random position."""
    reach = SIZES[thing.size] + _EDGE
    x, y = rng.uniform(reach, 1 - reach, 2).tolist()
    return replace(thing, x=round(x, 5), y=round(y, 5))


def fits(thing: Thing, others: tuple[Thing, ...] | list[Thing]) -> bool:
    """Whether the thing is inside the picture and apart from all others."""
    reach = SIZES[thing.size]
    inside = all(reach + _EDGE <= value <= 1 - reach - _EDGE for value in (thing.x, thing.y))
    return inside and all(
        max(abs(thing.x - other.x), abs(thing.y - other.y)) >= reach + SIZES[other.size] + _GAP for other in others
    )


def draw_scene(rng: np.random.Generator, number: int, *, alike: float = 0.0, named: bool = False) -> Scene:
    """A training scene of so many things. alike: the chance that a thing has the shape, and half as often also the colour, of
    the one before it. named: every thing is where a caption can name its place."""
    while True:
        things: list[Thing] = []
        for _ in range(40 * number):
            thing = draw_thing(rng)
            if things and rng.random() < alike:
                colour = things[-1].colour if rng.random() < 0.5 else thing.colour
                thing = replace(thing, shape=things[-1].shape, colour=colour)
            if not thing.heldout and (thing.place or not named) and fits(thing, things):
                things.append(thing)
            if len(things) == number:
                return Scene(tuple(things))


def draw_scene_with_new_thing(rng: np.random.Generator, number: int) -> Scene:
    """A scene with one held-out combination, at a position that a caption can name; the others are drawn as for training."""
    while True:
        scene = draw_scene(rng, number, named=True)
        colour, shape, region = heldout_combinations()[rng.integers(len(heldout_combinations()))]
        special = replace(scene.things[0], colour=colour, shape=shape)
        for _ in range(40):
            special = moved(special, rng)
            if special.place == region and fits(special, scene.things[1:]):
                things = (special, *scene.things[1:])
                return Scene(tuple(things[index] for index in rng.permutation(number)))


def scene_to_json(scene: Scene) -> list[dict[str, Any]]:
    return [dict(vars(thing)) for thing in scene.things]


def scene_from_json(rows: list[dict[str, Any]]) -> Scene:
    return Scene(tuple(Thing(**row) for row in rows))
