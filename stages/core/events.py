"""What a stage tells while it runs. The library reports events; `tfcli/render.py` shows them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of `task`; `fields` are short name/value pairs for the end of the line."""

    task: str
    done: int
    total: int
    unit: str
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """A line of information that stays on the screen."""

    text: str


@dataclass(frozen=True)
class Warn:
    """Something the user should know about: a skipped file, a setting without effect."""

    text: str


@dataclass(frozen=True)
class Passage:
    """What a model has just written or drawn of a document. Documents come one after the other, each to its end.

    document: its name for people. text: goes on where the last passage ended. picture: the file of a finished one. ended: why
    it ends with this. limit: in words, where it was cut.
    """

    document: str
    text: str = ""
    picture: str = ""
    ended: str = ""
    limit: str = ""


Event = Progress | Note | Warn | Passage
Report = Callable[[Event], None]


def silent(_event: Event) -> None:
    """A Report that shows nothing."""
