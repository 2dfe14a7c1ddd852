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


@dataclass(frozen=True)
class End:
    """The document ends. reason: "eos" (by itself), "stop", or which limit: "text", "images", "length"."""

    take: int
    reason: str


Event = Text | Step | Picture | End
