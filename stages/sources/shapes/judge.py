"""The judge: which things a picture shows, and whether a text is true of it. Exact about meaning, patient with blur.

A pixel's colour is the direction in which it leaves the ground; things are connected areas of one colour; the shape and
size are those whose drawing covers the area best. A place or relation is right on its side of the border, without the margin
that captions keep from it. stages/sources/shapes/README.md has the judge's errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from stages.sources.shapes.claims import ClaimedThing, Claims, claims, holds
from stages.sources.shapes.drawing import FOREIGN, Pixels, coverage
from stages.sources.shapes.world import COLOURS, GROUND, SHAPES, SIZES, Scene, Thing, region_of

_GROUND = np.array(GROUND, dtype=np.float32)
_OFFSETS = np.array(list(COLOURS.values()), dtype=np.float32) - _GROUND
_DIRECTIONS = _OFFSETS / np.linalg.norm(_OFFSETS, axis=1, keepdims=True)
_SEEN_FROM = 0.4  # share of a colour that a pixel must have to belong to a thing
_MIN_AREA = 0.005  # of the picture: a quarter of the smallest thing (a small cross covers 0.02)
# Below this no shape fits. Of 423 true things behind an autoencoder of 33 dB all fitted with 0.798 at least.
_MIN_OVERLAP = 0.75
_LEAD = (
    0.015  # by which the best shape must fit better than any other: of those true things 99.5 % led by 0.019 or more
)
# By which a figure that is none of the world's must fit better to be seen as one: of 110 hexagons each did by 0.034 at least; a
# small cross whose arms are blurred fits one as well as a cross.
_FOREIGN_LEAD = 0.015
_MAX_STAINS = 0.01  # of the picture: all together that belongs to no thing
_MAX_THINGS = 6  # more are not matched with claims
_CLEAN = 45.0  # how far (RGB) the ground may be off; those autoencoders: 30 at most
_MIN_COSINE = 0.97  # 14 degrees from a colour; orange, the nearest foreign colour tried, is 16 degrees from yellow
UNCLEAR = "unclear"
_NEAR = 0.06  # of the side: how far a thing that stays where it was may be off, across or down


@dataclass(frozen=True)
class Seen:
    """A thing found in a picture. shape, colour: "unclear" where none fits. x, y: centre, share of the side; area likewise."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    area: float
    overlap: float

    @property
    def region(self) -> str:
        return region_of(self.x, self.y)


@dataclass(frozen=True)
class Verdict:
    """Of a picture against claims. Nothing is right where the number of things differs."""

    objects_right: bool
    colours_right: bool
    places_right: bool
    relations_right: bool
    sizes_right: bool
    absent_right: bool

    @property
    def right(self) -> bool:
        """Whether every claim is true of the picture, but for sizes."""
        return (
            self.objects_right
            and self.colours_right
            and self.places_right
            and self.relations_right
            and self.absent_right
        )

    @property
    def all_right(self) -> bool:
        """Whether every claim is true of the picture."""
        return self.right and self.sizes_right


@dataclass(frozen=True)
class CaptionVerdict:
    """Of a text against a scene. claims_true is False where the text was not understood."""

    understood: bool
    claims_true: bool
    complete: bool


def see(pixels: Pixels) -> list[Seen]:
    """The things in a picture (side, side, 3) uint8, largest first."""
    side = len(pixels)
    offset = pixels.astype(np.float32) - _GROUND
    along = offset @ _DIRECTIONS.T
    colour = along.argmax(-1)
    amount = np.clip(along.max(-1) / np.linalg.norm(_OFFSETS, axis=1)[colour], 0, 1)
    colour = np.where(amount >= _SEEN_FROM, colour, -1)
    unexplained = np.linalg.norm(offset, axis=-1) > _CLEAN
    seen = []
    for number, name in enumerate(COLOURS):
        for area in _areas(colour == number):
            if len(area) >= _MIN_AREA * side * side:
                share = np.clip(along[..., number] / np.linalg.norm(_OFFSETS[number]), 0, 1)
                seen.append(_recognised(area, share, name if _has_colour(offset, share, area, number) else UNCLEAR))
                unexplained &= ~_around(area, side, 2)
    ghosts = [area for area in _areas(unexplained) if len(area) >= _MIN_AREA * side * side]
    if not ghosts and unexplained.mean() > _MAX_STAINS:
        ghosts = [np.argwhere(unexplained)]
    seen += [_ghost(area, side) for area in ghosts]
    return sorted(seen, key=lambda thing: -thing.area)


def judge(claimed: Claims | None, seen: Sequence[Seen | Thing]) -> Verdict:
    """Compare what a text claims with what a picture shows, by the best assignment of one to the other."""
    nothing = Verdict(False, False, False, False, False, False)
    if claimed is None or len(seen) > _MAX_THINGS:
        return nothing
    fewer = len(claimed.things) < len(seen)
    if fewer if not claimed.is_open else not fewer:
        return nothing
    if len(claimed.things) > len(seen):
        return nothing
    absent = not any(_is(claim, thing) for claim in claimed.absent for thing in seen)
    both = (_agreement(claimed, order) for order in permutations(seen, len(claimed.things)))
    # By shapes, colours, places and relations; sizes, which most captions leave out, only between equals.
    shapes, colours, places, related, sizes = max(both, key=lambda found: (sum(found[0][:4]), found[1], found[0][4]))[0]
    # Not even where the text leaves a shape or a colour open is a blot a thing.
    shapes &= all(thing.shape != UNCLEAR for thing in seen)
    colours &= all(thing.colour != UNCLEAR for thing in seen)
    return Verdict(shapes, colours, places, related, sizes, absent)


def _agreement(claimed: Claims, order: tuple[Seen | Thing, ...]) -> tuple[tuple[bool, bool, bool, bool, bool], int]:
    """What is right where claim i is about thing i: shapes, colours, places, relations, sizes; and how many values."""
    pairs = list(zip(claimed.things, order, strict=True))
    shapes = [claim.shape in (None, thing.shape) for claim, thing in pairs]
    colours = [claim.colour in (None, thing.colour) for claim, thing in pairs]
    places = [_is_at(claim, thing) for claim, thing in pairs]
    sizes = [claim.size in (None, thing.size) for claim, thing in pairs]
    related = [holds(name, (order[a].x, order[a].y), (order[b].x, order[b].y)) for a, name, b in claimed.relations]
    flags = (all(shapes), all(colours), all(places), all(related), all(sizes))
    return flags, sum(shapes) + sum(colours) + sum(places) + sum(related)


def _is_at(claim: ClaimedThing, thing: Seen | Thing) -> bool:
    if claim.at is not None:
        return max(abs(claim.at[0] - thing.x), abs(claim.at[1] - thing.y)) <= _NEAR
    return claim.place in (None, thing.region)


def _is(claim: ClaimedThing, thing: Seen | Thing) -> bool:
    return claim.shape in (None, thing.shape) and claim.colour in (None, thing.colour)


def exactly_once(claimed: Claims | None, seen: Sequence[Seen | Thing]) -> list[bool]:
    """For each claimed thing whether the picture shows its shape and colour as often as the text claims them. Empty for a text
    that says of some thing neither, or that there are others: it does not say how often."""
    if claimed is None or claimed.is_open or any(None in (thing.shape, thing.colour) for thing in claimed.things):
        return []
    asked = [(thing.shape, thing.colour) for thing in claimed.things]
    shown: list[tuple[str | None, str | None]] = [(thing.shape, thing.colour) for thing in seen]
    return [asked.count(each) == shown.count(each) for each in asked]


def judge_caption(text: str, scene: Scene) -> CaptionVerdict:
    """Whether all claims of the text are true of the scene, and whether every thing is named with shape and colour. A text that
    names fewer things is true where each of its claims is, whether it mentions the others or not, but for one that says that
    there is nothing else."""
    claimed = claims(text)
    if claimed is None:
        return CaptionVerdict(False, False, False)
    missing = len(scene.things) - len(claimed.things)
    flags = [_agreement(claimed, order)[0] for order in permutations(scene.things, len(claimed.things))]
    absent = not any(_is(claim, thing) for claim in claimed.absent for thing in scene.things)
    numbers = missing > 0 if claimed.is_open else missing == 0 or not claimed.is_closed
    true = absent and numbers and any(all(each) for each in flags)
    named = all(thing.shape and thing.colour for thing in claimed.things)
    return CaptionVerdict(True, true, missing == 0 and named)


def claims_of(scene: Scene) -> Claims:
    """The scene as claims that leave nothing open."""
    return Claims(tuple(claim_of(thing) for thing in scene.things))


def claim_of(thing: Thing) -> ClaimedThing:
    """The thing as a claim that leaves nothing open."""
    return ClaimedThing(thing.shape, thing.colour, thing.size, at=(thing.x, thing.y))


def _has_colour(offset: Any, amount: Any, area: Any, number: int) -> bool:
    """Whether the fuller half of an area points closely to the colour. The nearest alone would call black a green."""
    fullest = np.argsort(-amount[area[:, 0], area[:, 1]], kind="stable")[: (len(area) + 1) // 2]
    rows, columns = area[fullest].T
    mean = offset[rows, columns].mean(0)
    return bool(mean @ _DIRECTIONS[number] >= _MIN_COSINE * np.linalg.norm(mean))


def _recognised(area: Any, amount: Any, colour: str) -> Seen:
    """Shape, size and centre of one connected area, from how far each pixel is coloured."""
    side = len(amount)
    top, left = area.min(0)
    bottom, right = area.max(0) + 1
    weight = np.zeros_like(amount)
    weight[area[:, 0], area[:, 1]] = 1
    # One pixel around the area belongs to its soft edge.
    soft = np.where((weight > 0) | (_around(area, side, 1) & (amount < _SEEN_FROM)), amount, 0)
    x, y = (left + right) / 2 / side, (top + bottom) / 2 / side
    candidates = _candidates(soft, x, y, side)
    overlap, shape, size, x, y = max(candidate for candidate in candidates if candidate[1] in SHAPES)
    lead = overlap - max(candidate[0] for candidate in candidates if candidate[1] in SHAPES and candidate[1] != shape)
    foreign = max(candidate[0] for candidate in candidates if candidate[1] in FOREIGN)
    is_clear = overlap >= _MIN_OVERLAP and lead >= _LEAD and foreign - overlap < _FOREIGN_LEAD
    return Seen(
        shape=shape if is_clear else UNCLEAR,
        colour=colour,
        size=size,
        x=x,
        y=y,
        area=len(area) / side**2,
        overlap=overlap,
    )


def _ghost(area: Any, side: int) -> Seen:
    """A thing too faint to have a colour, or a stain of the ground."""
    y, x = ((area.min(0) + area.max(0) + 1) / 2 / side).tolist()
    return Seen(UNCLEAR, UNCLEAR, UNCLEAR, x, y, len(area) / side**2, 0.0)


def _around(area: Any, side: int, reach: int) -> Any:
    """The area and all that is at most `reach` pixels from it, as a boolean picture."""
    near = np.zeros((side + 2 * reach, side + 2 * reach), dtype=bool)
    for down in range(2 * reach + 1):
        for across in range(2 * reach + 1):
            near[area[:, 0] + down, area[:, 1] + across] = True
    return near[reach:-reach, reach:-reach]


def _candidates(soft: Any, x: float, y: float, side: int) -> list[tuple[float, str, str, float, float]]:
    """(overlap, shape, size, x, y) of every drawing near the measured centre."""
    found, total = [], soft.sum()
    for size, radius in SIZES.items():
        for shape in (*SHAPES, *FOREIGN):
            # The centre of a triangle is below the middle of its box, by 0.09 of its radius.
            middle = y + (0.09 * radius if shape == "triangle" else 0)
            for shift_x in (-0.5, 0.0, 0.5):
                for shift_y in (-0.5, 0.0, 0.5):
                    at_x, at_y = x + shift_x / side, middle + shift_y / side
                    share, rows, columns = coverage(shape, radius, at_x, at_y, side)
                    window = soft[rows, columns]
                    outside = total - window.sum()
                    # An autoencoder gives edges back blurred.
                    overlap = max(_overlap(window, drawing, outside) for drawing in (share, _blurred(share)))
                    found.append((overlap, shape, size, at_x, at_y))
    return found


def _overlap(window: Any, drawing: Any, outside: float) -> float:
    """Intersection over union. outside: what is coloured beyond the window."""
    return float(np.minimum(window, drawing).sum() / (np.maximum(window, drawing).sum() + outside))


def _blurred(share: Any) -> Any:
    """By half of a pixel to each side."""
    wide = np.pad(share, 1)
    down = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    return (down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]) / 16


def _areas(mask: Any) -> list[Any]:
    """Connected areas (4 neighbours) of a boolean picture, each as (n, 2) rows and columns."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    areas = []
    while left:
        stack = [left.pop()]
        area = []
        while stack:
            row, column = stack.pop()
            area.append((row, column))
            for neighbour in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if neighbour in left:
                    left.remove(neighbour)
                    stack.append(neighbour)
        areas.append(np.array(area))
    return areas
