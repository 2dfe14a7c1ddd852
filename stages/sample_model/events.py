"""What `Model.generate` yields, as it happens. take: which of several samples (count), from 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.coders.pixels import PilImage


@dataclass(frozen=True)
class Text:
    """Text that the document goes on with."""

    take: int
    text: str


@dataclass(frozen=True)
class Step:
    """The picture under way has come this far: `done` of its noise is gone, between 0 and 1."""

    take: int
    done: float


@dataclass(frozen=True)
class Picture:
    """A finished picture."""

    take: int
    image: PilImage


# why documents end, for people: nothing where it is as asked
REASONS = {
    "eos": "ended by itself",
    "drawn": "",
    "images": "image limit",
    "text": "text limit",
    "length": "length limit",
    "stop": "stop string",
}
LIMITS = ("images", "text", "length")


@dataclass(frozen=True)
class End:
    """The document ends. reason: "eos" (by itself), "drawn" (the one picture that was asked for), "stop" (a stop string), or
    which limit: "text", "images", "length" (of the rows of the training)."""

    take: int
    reason: str


Event = Text | Step | Picture | End
