"""Cards -> one HTML file with the pictures inside: captions in any script, no scripts, no other files, user text escaped."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.coders.pixels import Pixels, encode_png
from stages.pages.html import SHOWN, enlargement, render_html
from stages.preview.cards import Card, CardNote


@dataclass(frozen=True)
class _Part:
    """What the template shows of a part of a card. side: CSS class; picture: a data URL, empty for text."""

    side: str
    text: str = ""
    is_note: bool = False
    picture: str = ""
    width: int = 0
    height: int = 0
    alt: str = ""


@dataclass(frozen=True)
class _Shown:
    """A card as the template shows it. width: of the widest picture, in pixels of the page."""

    title: str
    parts: list[_Part]
    width: int
    has_sides: bool


def cards_page(title: str, summary: str, cards: Sequence[Card], about: str = "") -> str:
    """The whole HTML text. about: a line on what the pictures are."""
    return render_html(
        "preview/cards.html", title=title, summary=summary, about=about, cards=[_shown(card) for card in cards]
    )


def _shown(card: Card) -> _Shown:
    parts = []
    for number, part in enumerate(card.parts):
        side = "" if card.given is None else "given" if number < card.given else "made"
        if isinstance(part, np.ndarray):
            parts.append(_picture(part, side))
        elif isinstance(part, CardNote):
            parts.append(_Part(side, part.text, is_note=True))
        elif part:
            parts.append(_Part(side, part))
    # an image that may shrink counts as nothing in an automatic width, so the card's width is written out
    return _Shown(card.title, parts, max([SHOWN, *(part.width for part in parts)]), card.given is not None)


def _picture(pixels: Pixels, side: str) -> _Part:
    height, width = pixels.shape[:2]
    scale = enlargement(height, width)
    data = b64encode(encode_png(pixels)).decode("ascii")
    return _Part(
        side,
        picture=f"data:image/png;base64,{data}",
        width=width * scale,
        height=height * scale,
        alt=f"{width} x {height}",
    )
