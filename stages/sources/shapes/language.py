"""Scenes to English and back: captions in several wordings, and what a caption claims.

`claims` understands every caption that `caption` writes and plain variations of them; what it does not understand
whole is no claim at all (None), so that garbage never counts as right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from stages.sources.shapes.world import COLOURS, PLACES, SHAPES, SIZES, Scene, Thing

_WORDS = {"left": "on", "right": "on", "top": "at", "bottom": "at", "center": "in"}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@dataclass(frozen=True)
class ClaimedThing:
    """What a text says of one thing; None where it says nothing."""

    shape: str
    colour: str
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Claims:
    """All that a text claims. relations: (index of a thing, "left of" ..., index of another)."""

    things: tuple[ClaimedThing, ...]
    relations: tuple[tuple[int, str, int], ...] = ()


def related(first: Thing, relation: str, second: Thing) -> bool:
    """Whether the relation is true of two things, by their columns and rows."""
    return holds(relation, (first.column, first.row), (second.column, second.row))


def holds(relation: str, first: tuple[int, int], second: tuple[int, int]) -> bool:
    """The same for two cells (column, row)."""
    across, down = second[0] - first[0], second[1] - first[1]
    return {"left of": across > 0, "right of": across < 0, "above": down > 0, "below": down < 0}[relation]


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that is true of the scene and names everything in it."""
    things = [scene.things[index] for index in rng.permutation(len(scene.things))]
    if len(things) == 2 and rng.random() < 0.25:
        true = [relation for relation in OPPOSITE if related(things[0], relation, things[1])]
        relation = true[rng.integers(len(true))]
        worded = f"to the {relation}" if relation in ("left of", "right of") and rng.random() < 0.3 else relation
        return f"{_named(things[0], rng)} {worded} {_named(things[1], rng)}"
    start = "there is " if rng.random() < 0.15 else ""
    return start + " and ".join(_placed(thing, rng) for thing in things)


def first_text(thing: Thing, rng: np.random.Generator) -> str:
    """How a story of one thing begins."""
    return f"first {_placed(thing, rng)}: "


def turn(thing: Thing, changed: Thing) -> str:
    """How a story goes on when the thing changes its colour, size or place."""
    if thing.colour != changed.colour:
        return f"then it turns {changed.colour}: "
    if thing.size != changed.size:
        return f"then it becomes {changed.size}: "
    return f"then it moves to the {changed.place}: "


def place_words(place: str, corner: str = "at") -> str:
    """ "on the left", "in the center", "at the top-left"; corner: the word for a corner."""
    return f"{_WORDS.get(place, corner)} the {place}"


def claims(text: str) -> Claims | None:
    """What a caption claims; None where any part of it is not understood."""
    plain = re.sub(r"^(first|there (is|are)) ", "", _plain(text))
    if not plain:
        return None
    things: list[ClaimedThing] = []
    relations: list[tuple[int, str, int]] = []
    for part in re.split(r", and |, | and ", plain):
        if found := _RELATED.fullmatch(part):
            things += [_claimed(found, "a"), _claimed(found, "b")]
            relations.append((len(things) - 2, found["relation"].removeprefix("to the "), len(things) - 1))
        elif found := _PLACED.fullmatch(part):
            things.append(_claimed(found, "a"))
        else:
            return None
    return Claims(tuple(things), tuple(relations))


def after_turn(before: ClaimedThing, text: str) -> ClaimedThing | None:
    """What a story's thing must be after a text such as "then it turns blue:"; None where it is not understood."""
    found = _TURN.fullmatch(_plain(text))
    if not found:
        return None
    if found["colour"]:
        return replace(before, colour=found["colour"])
    if found["size"]:
        return replace(before, size=found["size"])
    return replace(before, place=found["place"])


def _plain(text: str) -> str:
    """Lower case, single spaces, no end mark, places in one word."""
    plain = re.sub(r"\s+", " ", text.strip().lower().rstrip(".: "))
    return re.sub(r"(top|bottom) (left|right)", r"\1-\2", plain)


def _named(thing: Thing, rng: np.random.Generator) -> str:
    size = f"{thing.size} " if rng.random() < 0.4 else ""
    return f"a {size}{thing.colour} {thing.shape}"


def _placed(thing: Thing, rng: np.random.Generator) -> str:
    corner = "in" if thing.place not in _WORDS and rng.random() < 0.5 else "at"
    return f"{_named(thing, rng)} {place_words(thing.place, corner)}"


def _pattern(name: str) -> str:
    return (
        rf"(?:an? |the )?(?:(?P<{name}_size>{'|'.join(SIZES)}) )?"
        rf"(?P<{name}_colour>{'|'.join(COLOURS)}) (?P<{name}_shape>{'|'.join(SHAPES)})"
    )


# Longer names first, so that "top left" is not read as "top".
_PLACE = "|".join(sorted(PLACES, key=len, reverse=True))
_PLACED = re.compile(rf"{_pattern('a')}(?: (?:in|at|on) the (?P<a_place>{_PLACE}))?")
_RELATED = re.compile(
    rf"{_pattern('a')} (?:is )?(?P<relation>(?:to the )?(?:left|right) of|above|below) {_pattern('b')}"
)
_TURN = re.compile(
    rf"then it (?:turns (?P<colour>{'|'.join(COLOURS)})|becomes (?P<size>{'|'.join(SIZES)})|moves to the (?P<place>{_PLACE}))"
)


def _claimed(found: re.Match[str], name: str) -> ClaimedThing:
    groups = found.groupdict()
    return ClaimedThing(
        shape=found[f"{name}_shape"],
        colour=found[f"{name}_colour"],
        size=found[f"{name}_size"],
        place=groups.get(f"{name}_place"),
    )
