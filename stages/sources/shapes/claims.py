"""What a text claims of a picture: a reader for every text of the world, which understands a text whole or not at all.

`claims` understands every caption that `captions.caption` writes and plain variations of them; what it does not understand
whole is no claim at all (None), so that garbage never counts as right. A caption names everything in the picture, unless it says
that there are other things.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from stages.sources.shapes.world import COLOURS, PLACES, RELATION_MARGIN, SHAPES, SIZES, one_in_ten

Point = tuple[float, float]
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
COUNTS = {"two": 2, "three": 3, "four": 4}


@dataclass(frozen=True)
class ClaimedThing:
    """What a text says of one thing; None where it says nothing. at: its centre, where another picture gives it."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None
    at: Point | None = None


@dataclass(frozen=True)
class Claims:
    """All that a text claims.

    Args:
        things: one entry for each thing that is claimed to be there.
        relations: (index of a thing, "left of" ..., index of another).
        absent: what is claimed not to be there, as a description of a thing.
        is_open: whether other things than those claimed are said to be there, at least one.
        is_closed: whether the text says itself that there is nothing else: "nothing else", "all red".
    """

    things: tuple[ClaimedThing, ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    absent: tuple[ClaimedThing, ...] = ()
    is_open: bool = False
    is_closed: bool = False

    @property
    def is_heldout(self) -> bool:
        """Whether training captions never state what this caption states: each of its relations; without any, all of it."""
        return all(one_in_ten(key) for key in self.keys())

    @property
    def may_be_trained(self) -> bool:
        """Whether no claim of it is held out."""
        return not any(one_in_ten(key) for key in self.keys())

    def keys(self) -> list[str]:
        """Names of the claims, equal for equal meanings: each relation, or all things together. Sizes do not count: most
        captions name none, and the same caption with another size would answer. Nor does an absence that the things imply."""
        if self.relations:
            return [self._relation_key(relation) for relation in self.relations]
        things = sorted(map(_described, self.things))
        absent = [f"no {described}" for described in sorted(map(_described, filter(self._adds, self.absent)))]
        return ["caption: " + "; ".join([*things, *absent, *(["other things"] if self.is_open else [])])]

    def _adds(self, absent: ClaimedThing) -> bool:
        """Whether the absence of such a thing does not follow from the things that are claimed."""
        return self.is_open or any(
            thing.shape in (None, absent.shape or thing.shape) and thing.colour in (None, absent.colour or thing.colour)
            for thing in self.things
        )

    def _relation_key(self, relation: tuple[int, str, int]) -> str:
        first, name, second = relation
        if name in ("right of", "below"):
            first, name, second = second, OPPOSITE[name], first
        return f"relation: {_described(self.things[first])} {name} {_described(self.things[second])}"


def _described(thing: ClaimedThing) -> str:
    return f"{thing.colour}/{thing.shape}/{thing.place}"


def holds(relation: str, first: Point, second: Point, margin: float = RELATION_MARGIN / 2) -> bool:
    """Whether a relation is true of two centres (x, y): by half of the margin with which captions state it."""
    across, down = second[0] - first[0], second[1] - first[1]
    by = {"left of": across, "right of": -across, "above": down, "below": -down}[relation]
    return by > margin


def claims(text: str) -> Claims | None:
    """What a caption claims; None where any part of it is not understood."""
    plain = re.sub(r"^(first|there (is|are)) ", "", plain_text(text))
    reader = _Reader()
    for part in re.split(r", and |, | and ", plain):
        if not reader.read(part):
            return None
    return reader.result()


class _Reader:
    """Reads a caption part by part."""

    def __init__(self) -> None:
        self.things: list[ClaimedThing] = []
        self.relations: list[tuple[int, str, int]] = []
        self.absent: list[ClaimedThing] = []
        self.is_open = False
        self.is_closed = False
        self.hub: int | None = None  # the first thing of the last relation

    def read(self, part: str) -> bool:
        """Whether the part was understood."""
        if self.is_closed:
            return False
        hub, self.hub = self.hub, None  # a relation to the hub follows a relation at once
        if part in ("another thing", "other things"):
            if not self.things or self.is_open:
                return False
            self.things.append(ClaimedThing())
            self.is_open = part == "other things"  # and at least one more
        elif part == "nothing else":
            self.is_closed = True
            return bool(self.things) and not self.is_open
        elif found := _ALL.fullmatch(part):
            return self._set_all(found)
        elif found := _ABSENT.fullmatch(part):
            self.absent.append(ClaimedThing(found["shape"], found["colour"] or found["only_colour"]))
        elif found := _FURTHER.fullmatch(part):
            return self._relate_further(found, hub)
        elif found := _RELATED.fullmatch(part):
            self.hub = len(self.things)
            self.things += [_claimed(found, "a"), _claimed(found, "b")]
            self.relations.append((self.hub, _relation(found), self.hub + 1))
        elif found := _PLACED.fullmatch(part):
            self.things.append(_claimed(found, "a"))
        elif found := _COUNTED.fullmatch(part):
            self.things += [_claimed(found, "a")] * COUNTS[found["count"]]
        else:
            return False
        return True

    def result(self) -> Claims | None:
        if not self.things:
            return None
        return Claims(tuple(self.things), tuple(self.relations), tuple(self.absent), self.is_open, self.is_closed)

    def _set_all(self, found: re.Match[str]) -> bool:
        """all red: of every thing of the caption, which ends with it."""
        self.is_closed = True
        if not self.things or self.is_open or any(thing.colour for thing in self.things):
            return False
        self.things = [replace(thing, colour=found["colour"]) for thing in self.things]
        return True

    def _relate_further(self, found: re.Match[str], hub: int | None) -> bool:
        if hub is None:
            return False
        self.hub = hub
        self.things.append(_claimed(found, "b"))
        self.relations.append((hub, _relation(found), len(self.things) - 1))
        return True


def after_turn(before: ClaimedThing, text: str) -> ClaimedThing | None:
    """What a story's thing must be after a text such as "then it turns blue:"; None where it is not understood."""
    found = _TURN.fullmatch(plain_text(text))
    if not found:
        return None
    if found["place"]:
        return replace(before, place=found["place"], at=None)
    changed: dict[str, Any] = {name: value for name, value in found.groupdict().items() if value}
    return replace(before, **changed)


def after_two(first: ClaimedThing, second: ClaimedThing, text: str) -> ClaimedThing | None:
    """What a thing must be after a text such as "then the first in the colour of the second:"."""
    found = _TAKES.fullmatch(plain_text(text))
    if not found or found["thing"] == found["other"]:
        return None
    thing, other = (first, second) if found["thing"] == "first" else (second, first)
    if found["what"] == "place":
        return replace(thing, place=other.place, at=other.at)
    return replace(thing, **{found["what"]: getattr(other, found["what"])})


def plain_text(text: str) -> str:
    """Lower case, single spaces, no end mark, places in one word."""
    plain = re.sub(r"\s+", " ", text.strip().lower().rstrip(".: "))
    return re.sub(r"(top|bottom) (left|right)", r"\1-\2", plain)


_SHAPE = "|".join(SHAPES)
_COLOUR = "|".join(COLOURS)
# Longer names first, so that "top left" is not read as "top".
_PLACE = "|".join(sorted(PLACES, key=len, reverse=True))
_REL = r"(?:is )?(?:to the )?(?P<relation>left of|right of|above|below)"


def _noun(name: str, plural: str = "") -> str:
    size, colour = (
        rf"(?:(?P<{name}_{what}>{'|'.join(values)}) )?" for what, values in (("size", SIZES), ("colour", COLOURS))
    )
    shapes = "|".join(f"{shape}{'es' if plural and shape == 'cross' else plural}" for shape in SHAPES)
    return rf"{size}{colour}(?:(?P<{name}_shape>{shapes})|thing{plural})"


_ARTICLE = "(?:an? |the |one )?"
_PLACED = re.compile(rf"{_ARTICLE}{_noun('a')}(?: (?:in|at|on) the (?P<a_place>{_PLACE}))?")
_COUNTED = re.compile(rf"(?P<count>{'|'.join(COUNTS)}) {_noun('a', 's')}")
_RELATED = re.compile(rf"{_ARTICLE}{_noun('a')} {_REL} {_ARTICLE}{_noun('b')}")
_FURTHER = re.compile(rf"{_REL} {_ARTICLE}{_noun('b')}")
_ALL = re.compile(rf"all (?:of them )?(?P<colour>{_COLOUR})")
_ABSENT = re.compile(rf"(?:nothing (?P<only_colour>{_COLOUR})|no (?:(?P<colour>{_COLOUR}) )?(?P<shape>{_SHAPE}))")
_TURN = re.compile(
    rf"then it (?:turns (?P<colour>{_COLOUR})|becomes (?:(?P<size>{'|'.join(SIZES)})|an? (?P<shape>{_SHAPE}))"
    rf"|moves to the (?P<place>{_PLACE}))"
)
_TAKES = re.compile(
    r"then the (?P<thing>first|second) (?:at|in|with) the (?P<what>place|colour|size|shape) of the (?P<other>first|second)"
)


def _claimed(found: re.Match[str], name: str) -> ClaimedThing:
    groups = found.groupdict()
    shape = groups[f"{name}_shape"]
    if shape not in SHAPES and shape is not None:
        shape = next(each for each in SHAPES if shape in (f"{each}s", f"{each}es"))
    return ClaimedThing(shape, groups[f"{name}_colour"], groups[f"{name}_size"], groups.get(f"{name}_place"))


def _relation(found: re.Match[str]) -> str:
    return found["relation"]
