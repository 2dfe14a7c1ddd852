"""Scenes to English: captions of several kinds, most of which leave something open, and the texts of stories.

Kinds of captions (what the text leaves open):
    placed    a red circle at the left and a blue square in the center (sizes, mostly)
    related   a red circle left of a blue square (the places, but not their relation)
    counted   two red circles and a square (places, some colours)
    coloured  a red circle and a blue square (places)
    plain     a circle and a blue thing (places, and of each thing the colour or the shape)
    mixed     a red circle at the left, a square and a blue thing (this and that)
    exact     three things, all red; a circle and a square, nothing else; ..., no triangle (places)
    partial   a red circle at the left and other things, nothing blue (all other things; "another thing" is exactly one more)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, get_args

import numpy as np

from stages.sources.shapes.claims import COUNTS, OPPOSITE, holds
from stages.sources.shapes.world import COLOURS, RELATION_MARGIN, SHAPES, Scene, Thing

Kind = Literal["placed", "related", "counted", "coloured", "plain", "mixed", "exact", "partial"]
KINDS: tuple[Kind, ...] = get_args(Kind)
T = TypeVar("T")
_WORDS = {"left": "on", "right": "on", "top": "at", "bottom": "at", "center": "in"}
_NUMBERS = {number: word for word, number in COUNTS.items()}
_SIZED = 0.3  # share of things whose size is named


def caption(kind: Kind, scene: Scene, rng: np.random.Generator) -> str | None:
    """A caption of that kind that is true of the scene; None where the scene, or this draw, has none."""
    things = [scene.things[index] for index in rng.permutation(len(scene.things))]
    return _WRITERS[kind](things, rng)


def first_text(thing: Thing, rng: np.random.Generator) -> str | None:
    """How a story of one thing begins: with all of it, or with nothing of it. None where a caption cannot name its place."""
    if rng.random() < 0.7:
        return "first this: "
    return f"first {_with_place(thing, rng)}: " if thing.place else None


def turn(thing: Thing, changed: Thing) -> str:
    """How a story goes on when the thing changes its colour, size, shape or place."""
    if thing.colour != changed.colour:
        return f"then it turns {changed.colour}: "
    if thing.size != changed.size:
        return f"then it becomes {changed.size}: "
    if thing.shape != changed.shape:
        return f"then it becomes a {changed.shape}: "
    return f"then it moves to the {changed.place}: "


def takes(what: str, *, second: bool) -> str:
    """How a story of two pictures ends: one thing in the colour of the other. second: it is the second thing that changes."""
    thing, other = ("second", "first") if second else ("first", "second")
    word = {"place": "at", "colour": "in", "size": "in", "shape": "with"}[what]
    return f"then the {thing} {word} the {what} of the {other}: "


def place_words(place: str, corner: str = "at") -> str:
    """A place with its preposition: "on the left", "in the center", and `corner` for a corner."""
    return f"{_WORDS.get(place, corner)} the {place}"


def one_of(choices: Sequence[T], rng: np.random.Generator) -> T:
    """One of them at random."""
    return choices[int(rng.integers(len(choices)))]


def _placed(things: list[Thing], rng: np.random.Generator) -> str | None:
    if any(thing.place is None for thing in things):
        return None
    start = "there is " if rng.random() < 0.1 else ""
    return start + _listed([_with_place(thing, rng) for thing in things])


def _related(things: list[Thing], rng: np.random.Generator) -> str | None:
    """Of two or three things each other one to the first; of four two pairs."""
    if len(things) < 2:
        return None
    parts = []
    pairs = [(0, 1), (2, 3)] if len(things) == 4 else [(0, number) for number in range(1, len(things))]
    for number, (first, second) in enumerate(pairs):
        true = [name for name in OPPOSITE if _differ(name, things[first], things[second])]
        if not true:
            return None
        name = one_of(true, rng)
        worded = f"to the {name}" if name in ("left of", "right of") and rng.random() < 0.2 else name
        start = "" if number and first == 0 else _named(things[first], rng) + " "
        parts.append(f"{start}{worded} {_named(things[second], rng)}")
    return " and ".join(parts)


def _counted(things: list[Thing], rng: np.random.Generator) -> str | None:
    """Things of one shape, or of one shape and colour, together; at least two of a kind."""
    by_shape = rng.random() < 0.5

    def kind_of(thing: Thing) -> tuple[str | None, str]:
        return (None if by_shape else thing.colour), thing.shape

    groups = Counter(kind_of(thing) for thing in things)
    if max(groups.values()) == 1:
        return None
    return _listed([_group(shape, colour, number) for (colour, shape), number in groups.items()])


def _coloured(things: list[Thing], rng: np.random.Generator) -> str | None:
    return _listed([_named(thing, rng) for thing in things])


def _plain(things: list[Thing], rng: np.random.Generator) -> str | None:
    parts = []
    for thing in things:
        colour, shape = (thing.colour, None) if rng.random() < 0.4 else (None, thing.shape)
        parts.append(_group(shape, colour, 1))
    return _listed(parts)


def _mixed(things: list[Thing], rng: np.random.Generator) -> str | None:
    """At least one thing with a place, and at least one without."""
    if len(things) < 2 or things[0].place is None:
        return None
    parts = [_with_place(things[0], rng)]
    for thing in things[1:]:
        draw = rng.random()
        if draw < 0.5:
            parts.append(_named(thing, rng))
        else:
            parts.append(_group(thing.shape, None, 1) if draw < 0.8 else _group(None, thing.colour, 1))
    return _listed([parts[index] for index in rng.permutation(len(parts))])


def _exact(things: list[Thing], rng: np.random.Generator) -> str | None:
    """nothing else, no ..., all ...; each about a caption that is complete."""
    colours, shapes = {thing.colour for thing in things}, {thing.shape for thing in things}
    listed = _listed([_named(thing, rng) for thing in things])
    draw = rng.random()
    if len(colours) == 1 and len(things) > 1:
        number = _NUMBERS[len(things)]
        groups = Counter(thing.shape for thing in things)
        what = f"{number} things"
        if draw < 0.7:
            what = _listed([_group(shape, None, count) for shape, count in groups.items()])
        return f"{what}, all {things[0].colour}"
    if draw < 0.4:
        return f"{listed}, nothing else"
    missing = sorted(set(COLOURS) - colours) if draw < 0.6 else sorted(set(SHAPES) - shapes)
    if not missing:
        return None
    absent = one_of(missing, rng)
    plain = _plain(things, rng)
    return f"{plain}, nothing {absent}" if draw < 0.6 else f"{plain}, no {absent}"


def _partial(things: list[Thing], rng: np.random.Generator) -> str | None:
    if len(things) < 2:
        return None
    number = 1 + int(rng.integers(len(things) - 1))
    parts = [_with_place(t, rng) if t.place and rng.random() < 0.5 else _named(t, rng) for t in things[:number]]
    parts.append("another thing" if len(things) - number == 1 else "other things")
    text = _listed(parts)
    missing = sorted(set(COLOURS) - {thing.colour for thing in things})
    if missing and rng.random() < 0.4:
        text += f", nothing {one_of(missing, rng)}"
    return text


_WRITERS: dict[Kind, Callable[[list[Thing], np.random.Generator], str | None]] = {
    "placed": _placed,
    "related": _related,
    "counted": _counted,
    "coloured": _coloured,
    "plain": _plain,
    "mixed": _mixed,
    "exact": _exact,
    "partial": _partial,
}


def _differ(relation: str, first: Thing, second: Thing) -> bool:
    return holds(relation, (first.x, first.y), (second.x, second.y), RELATION_MARGIN)


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _group(shape: str | None, colour: str | None, number: int) -> str:
    word = shape or "thing"
    if number > 1:
        word += "es" if word == "cross" else "s"
    return f"{_NUMBERS[number] if number > 1 else 'a'} {f'{colour} ' if colour else ''}{word}"


def _named(thing: Thing, rng: np.random.Generator) -> str:
    size = f"{thing.size} " if rng.random() < _SIZED else ""
    return f"a {size}{thing.colour} {thing.shape}"


def _with_place(thing: Thing, rng: np.random.Generator) -> str:
    assert thing.place is not None, "the caller has looked"
    corner = "in" if thing.place not in _WORDS and rng.random() < 0.5 else "at"
    return f"{_named(thing, rng)} {place_words(thing.place, corner)}"
