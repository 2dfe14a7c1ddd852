"""Cards -> one HTML file with the pictures inside: captions in any script, no scripts, no other files, user text escaped."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

import numpy as np

from stages.coders.pixels import Pixels, encode_png
from stages.core.text import printable
from stages.preview.cards import Card, Note

SHOWN = 160  # pixels of the shorter side on the page; small pictures are enlarged without smoothing
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --card: #8881; --a: #2563eb; --b: #d9480f; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
.facts { opacity: .75; margin: 0 0 1.2rem; font-size: .9rem; overflow-wrap: anywhere; }
main { display: flex; flex-wrap: wrap; gap: .9rem; align-items: flex-start; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem; overflow-wrap: anywhere;
  max-width: 100%; box-sizing: border-box; }
article img { image-rendering: pixelated; border-radius: 4px; display: block; margin: 0 0 .4rem; max-width: 100%; height: auto; }
article p { margin: 0 0 .4rem; white-space: pre-wrap; max-height: 14rem; overflow: auto; }
article .given { border-left: 3px solid var(--a); padding-left: .5rem; }
article .made { border-left: 3px solid var(--b); padding-left: .5rem; }
article footer { font-size: .72rem; opacity: .65; } i { opacity: .7; }
"""


def cards_page(title: str, facts: str, cards: Sequence[Card], about: str = "") -> str:
    """The whole HTML text. about: a line on what the pictures are."""
    body = "".join(_card(card) for card in cards) or "<p>nothing to show</p>"
    key = (
        "<p class='facts'>Blue: given to the model. Orange: what it wrote and drew.</p>"
        if any(card.given is not None for card in cards)
        else ""
    )
    key += f"<p class='facts'>{_text(about)}</p>" if about else ""
    # no script may run and nothing may be fetched, whatever a caption holds
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{_text(title)}</title>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body>"
        f"<h1>{_text(title)}</h1><p class='facts'>{_text(facts)}</p>{key}<main>{body}</main></body></html>\n"
    )


def scale_of(pixels: Pixels) -> int:
    """By how much a small picture is enlarged to be seen."""
    return max(1, SHOWN // int(min(pixels.shape[:2])))


def _card(card: Card) -> str:
    shown = []
    for place, part in enumerate(card.parts):
        side = "" if card.given is None else " class='given'" if place < card.given else " class='made'"
        if isinstance(part, np.ndarray):
            shown.append(f"<div{side}>{_picture(part)}</div>")
        elif isinstance(part, Note):
            shown.append(f"<p{side}><i>{_text(part.text)}</i></p>")
        elif part:
            shown.append(f"<p{side} dir='auto'>{_text(part)}</p>")
    # an image that may shrink counts as nothing in an automatic width, so the card's is written out
    widths = [part.shape[1] * scale_of(part) for part in card.parts if isinstance(part, np.ndarray)]
    width = max([SHOWN, *widths])
    body = "".join(shown) or "<p><i>nothing</i></p>"
    return f"<article style='width:calc({width}px + 1.4rem)'>{body}<footer>{_text(card.title)}</footer></article>"


def _picture(pixels: Pixels) -> str:
    height, width = pixels.shape[:2]
    scale = scale_of(pixels)
    data = b64encode(encode_png(pixels)).decode("ascii")
    return f"<img src='data:image/png;base64,{data}' width='{width * scale}' height='{height * scale}' alt='{width} x {height}'>"


def _text(text: str) -> str:
    """Escaped for HTML; control characters made visible, line breaks kept."""
    return "\n".join(escape(printable(line)) for line in text.split("\n"))
