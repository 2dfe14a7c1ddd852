"""The static page of Samples: documents as a person reads them, what was given apart from what the model wrote and drew.

Pictures are walked through with the arrow keys and enlarged with Enter; light and dark by the reader's own setting.
"""

from __future__ import annotations

from html import escape
from itertools import groupby
from typing import Any

from stages.artifacts.samples import GRID, Part, Record
from stages.core.text import printable
from stages.pages.charts import loss_charts
from stages.sample_model.events import REASONS
from stages.sample_model.page_assets import POLICY, SCRIPT, STYLE

_SHOWN = 160  # pixels of the shorter side; smaller pictures are enlarged without smoothing
_KEYS = (
    "<p class='facts'><kbd>&larr;</kbd> <kbd>&rarr;</kbd> <kbd>&uarr;</kbd> <kbd>&darr;</kbd> go from picture to picture, "
    "<kbd>Enter</kbd> enlarges, <kbd>Esc</kbd> closes.</p>"
)
_DIALOG = (
    "<dialog aria-label='picture, enlarged'><img alt=''><p aria-live='polite'></p>"
    "<button data-act='back'>Back</button><button data-act='on'>Next</button>"
    "<button data-act='close' autofocus>Close</button></dialog>"
)


def render_page(
    title: str,
    summary: str,
    settings: dict[str, str],
    metrics: list[dict[str, Any]],
    sections: dict[str, list[Record]],
) -> str:
    """The whole HTML text. summary: a line below the title; metrics: rows of metrics.jsonl; sections: heading -> records."""
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in settings.items())
    plots = "".join(loss_charts(metrics))
    shown = {heading: records for heading, records in sections.items() if records}
    drawn = any(part.image for records in shown.values() for record in records for part in record.output)
    sheet = f" All drawn pictures on one sheet: <a href='{GRID}'>{GRID}</a>." if drawn else ""
    body = "".join(_section(heading, records) for heading, records in shown.items())
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{_text(title)}</title>"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head><body>"
        f"<header><h1>{_text(title)}</h1><p class='facts'>{_text(summary)}{sheet}</p>{_KEYS}</header><main>{body}</main>"
        f"<details><summary>Settings and losses</summary><dl>{facts}</dl><div class='curves'>{plots}</div></details>"
        f"{_DIALOG}<script>{SCRIPT}</script></body></html>\n"
    )


def _section(heading: str, records: list[Record]) -> str:
    cards = [_card(list(takes)) for _, takes in groupby(records, key=lambda record: record.index)]
    count = f"<small>{len(cards)}</small>"
    return f"<section><h2>{_text(heading)} {count}</h2><div class='documents'>{''.join(cards)}</div></section>"


def _card(takes: list[Record]) -> str:
    """A prompt with what the model made of it, more than once where there are several takes."""
    first = takes[0]
    about = "".join(part.text or "" for part in first.prompt).strip()
    shown = (_parts(first.prompt, "given picture") if first.prompt else "") + _begun(
        next((take for take in takes if take.begin), first)
    )
    given = f"<div class='given'>{shown}</div>" if shown else ""
    made = [f"<div class='made'>{_parts(take.output, _alt(take, about))}</div>" for take in takes]
    outputs = made[0] if len(made) == 1 else f"<div class='takes'>{''.join(made)}</div>"
    ends = list(dict.fromkeys(REASONS.get(take.ended, take.ended) for take in takes))
    notes = [f"{len(takes)} samples"] if len(takes) > 1 else []
    notes += ["given pictures as the autoencoder keeps them"] if any(part.image for part in first.prompt) else []
    footer = ", ".join(filter(None, [*([first.key] if first.key else [f"prompt {first.index + 1}"]), *notes, *ends]))
    shapes = [_shown_size(part) for take in takes for part in (*take.prompt, *take.output) if part.image]
    width = max([240, *(width for _, width in shapes)]) if len(takes) == 1 else 0
    style = f" style='width:calc({width}px + 2.1rem)'" if width else ""
    return f"<article{style}>{given}{outputs}<footer>{_text(footer)}</footer></article>"


def _begun(take: Record) -> str:
    """What drawing began from, where it could change, and what it was led away from."""
    shown = ""
    if take.begin is not None:
        strength = f", strength {take.strength:g}" if take.strength not in (None, 1.0) else ""
        shown += f"<p class='note'>drawing begins from{strength}</p>{_picture(take.begin, 'picture that drawing began from')}"
    if take.mask is not None:
        shown += f"<p class='note'>white may change</p>{_picture(take.mask, 'mask: white could change')}"
    if take.negative:
        shown += f"<p class='note'>away from: {_text(take.negative)}</p>"
    return shown


def _alt(take: Record, about: str) -> str:
    """What a drawn picture was drawn for: the text before it, of the prompt or of the model."""
    written = "".join(part.text or "" for part in take.output).strip()
    words = about or written
    number = f", sample {take.take + 1}" if take.take else ""
    return (f"drawn for: {words}" if words else "drawn from nothing") + number


def _parts(parts: list[Part], alt: str) -> str:
    shown = []
    for part in parts:
        if part.image is not None:
            if part.original is not None:
                before = Part(image=part.original, size=part.size)
                shown.append(
                    f"<p class='note'>the given picture</p>{_picture(before, 'given picture, as it was cropped')}"
                )
                shown.append("<p class='note'>as the autoencoder gives it back: what the model sees</p>")
            shown.append(_picture(part, alt))
        elif part.text and part.text.strip():
            scrolls = " tabindex='0'" if len(part.text) > 600 else ""  # a box that scrolls must be reached by keys
            shown.append(f"<p dir='auto'{scrolls}>{_text(part.text.strip(' '))}</p>")
    return "".join(shown) or "<p><i>nothing</i></p>"


def _picture(part: Part, alt: str) -> str:
    height, width = _shown_size(part)
    small = " class='small'" if part.size and min(part.size) < _SHOWN else ""
    steps = f"<a class='steps' href='{escape(part.animation)}'>how it was drawn</a>" if part.animation else ""
    return (
        f"<div class='drawn'><a class='picture' href='{escape(part.image or '')}'><img{small} src='{escape(part.image or '')}' "
        f"width='{width}' height='{height}' alt='{escape(printable(alt), quote=True)}' loading='lazy'></a>{steps}</div>"
    )


def _shown_size(part: Part) -> tuple[int, int]:
    """Height and width on the page: small pictures are enlarged by a whole number."""
    height, width = part.size or (_SHOWN, _SHOWN)
    scale = max(1, -(-_SHOWN // min(height, width)))
    return height * scale, width * scale


def _text(text: str) -> str:
    """Escaped for HTML; control characters made visible, line breaks kept."""
    return "\n".join(escape(printable(line)) for line in text.split("\n"))
