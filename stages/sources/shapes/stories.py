"""Stories: pictures of one thing that changes, or of two things and a third that takes after both. Most texts leave all that does
not change to the pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from stages.sources.shapes.captions import first_text, one_of, takes, turn
from stages.sources.shapes.claims import claims
from stages.sources.shapes.world import (
    COLOURS,
    SHAPES,
    SIZES,
    Thing,
    draw_thing,
    fits,
    moved,
    one_in_ten,
)

CHANGES = ("colour", "size", "shape", "place")
_TWO = 0.3  # share of the stories of two things
LEAST_MOVE = 0.2  # between two positions of a thing that moves, across or down


@dataclass(frozen=True)
class Story:
    """texts and things in turn; each thing is alone in its picture. kind: "turns" or "two"."""

    kind: Literal["turns", "two"]
    texts: tuple[str, ...]
    things: tuple[Thing, ...]


def draw_story(rng: np.random.Generator, *, heldout: bool) -> Story:
    """heldout: every change is one that training never shows, from things that it shows. Kinds and lengths are as frequent as
    among those for training."""
    is_two, turns = bool(rng.random() < _TWO), 1 + int(rng.integers(2))
    while True:
        story = _draw_two(rng, heldout=heldout) if is_two else _draw_turns(rng, turns, heldout=heldout)
        if story is not None:
            return story


def _draw_turns(rng: np.random.Generator, turns: int, *, heldout: bool) -> Story | None:
    """One thing, then the same thing after each of so many changes. A thing that the first text names is one that captions
    for training name, too."""
    things = [_any_thing(rng)]
    first = first_text(things[0], rng)
    if first is None or ((named := claims(first)) and not named.may_be_trained):
        return None
    texts = [first]
    for _ in range(turns):
        changed = _changed(things[-1], one_of(CHANGES, rng), rng)
        text = turn(things[-1], changed)
        if changed.heldout or one_in_ten(f"turn: {_described(things[-1])} {text}") != heldout:
            return None
        things.append(changed)
        texts.append(text)
    return Story("turns", tuple(texts), tuple(things))


def _draw_two(rng: np.random.Generator, *, heldout: bool) -> Story | None:
    """Two things, then one of them with something of the other."""
    first, second = _any_thing(rng), _any_thing(rng)
    what, is_second = one_of(CHANGES, rng), bool(rng.random() < 0.5)
    thing, other = (second, first) if is_second else (first, second)
    if what == "place":
        taken = replace(thing, x=other.x, y=other.y)
        changes = distance(thing, other) >= LEAST_MOVE
    else:
        taken = replace(thing, **{what: getattr(other, what)})
        changes = taken != thing
    text = takes(what, second=is_second)
    name = f"two: {_described(thing)} {text} {_described(other)}"
    if not changes or taken.heldout or not fits(taken, ()) or one_in_ten(name) != heldout:
        return None
    return Story("two", ("first this: ", "second this: ", text), (first, second, taken))


def _any_thing(rng: np.random.Generator) -> Thing:
    thing = draw_thing(rng)
    while thing.heldout:
        thing = draw_thing(rng)
    return thing


def _changed(thing: Thing, what: str, rng: np.random.Generator) -> Thing:
    """The thing with another colour, size, shape or place, inside of the picture."""
    while True:
        if what == "place":
            changed = moved(thing, rng)
            visible = changed.place not in (None, thing.region) and distance(thing, changed) >= LEAST_MOVE
        else:
            values = {"colour": tuple(COLOURS), "size": tuple(SIZES), "shape": SHAPES}[what]
            others: list[Any] = [value for value in values if value != getattr(thing, what)]
            changed, visible = replace(thing, **{what: one_of(others, rng)}), True
        if visible and fits(changed, ()):
            return changed
        if what == "size":  # too close to the edge to grow
            what = "colour"


def distance(first: Thing, second: Thing) -> float:
    return max(abs(first.x - second.x), abs(first.y - second.y))


def _described(thing: Thing) -> str:
    return f"{thing.colour}/{thing.shape}/{thing.region}"
