"""The static page of Samples: documents as a person reads them, what was given apart from what the model wrote and drew.

Arrow keys go from picture to picture and Enter enlarges; light and dark follow the reader's own setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from stages.artifacts.samples import GRID, Part, Record
from stages.pages.charts import loss_charts
from stages.pages.html import SHOWN, enlargement, render_html
from stages.sample_model.events import REASONS
from stages.sample_model.page_script import SCRIPT

_SCROLLS = 600  # characters from which on a text may need a box that scrolls, which keys must reach


@dataclass(frozen=True)
class _Part:
    """What the template shows of a part: a text, or a picture by file name with its size on the page."""

    text: str = ""
    scrolls: bool = False
    image: str = ""
    width: int = 0
    height: int = 0
    is_small: bool = False
    animation: str = ""
    original: _Part | None = None


@dataclass(frozen=True)
class _Card:
    """A prompt and what the model made of it, once or more. start, mask, strength, negative: of an edit. takes: parts and the
    alternative text of their pictures. width: in pixels of the page, 0 for as wide as it gets."""

    given: list[_Part]
    start: _Part | None
    strength: str
    mask: _Part | None
    negative: str
    takes: list[tuple[list[_Part], str]]
    footer: str
    width: int


def render_page(
    title: str,
    summary: str,
    settings: dict[str, str],
    metrics: list[dict[str, Any]],
    sections: dict[str, list[Record]],
) -> str:
    """The whole HTML text. summary: a line below the title; metrics: rows of metrics.jsonl; sections: heading -> records."""
    shown = {heading: records for heading, records in sections.items() if records}
    drawn = any(part.image for records in shown.values() for record in records for part in record.output)
    cards = {
        heading: [_card(list(takes)) for _, takes in groupby(records, key=lambda record: record.index)]
        for heading, records in shown.items()
    }
    return render_html(
        "sample_model/samples.html",
        title=title,
        script=SCRIPT,
        images="'self' file:",
        summary=summary,
        sheet=GRID if drawn else "",
        sections=cards,
        settings=settings,
        plots=loss_charts(metrics),
    )


def _card(takes: list[Record]) -> _Card:
    """Records of one prompt as a card."""
    first = takes[0]
    about = "".join(part.text or "" for part in first.prompt).strip()
    edit = next((take for take in takes if take.begin), first)
    ends = list(dict.fromkeys(REASONS.get(take.ended, take.ended) for take in takes))
    notes = [f"{len(takes)} samples"] if len(takes) > 1 else []
    notes += (
        ["given pictures are shown as the autoencoder reconstructs them"]
        if any(part.image for part in first.prompt)
        else []
    )
    widths = [_size(part)[1] for take in takes for part in (*take.prompt, *take.output) if part.image]
    return _Card(
        given=_parts(first.prompt),
        start=_picture(edit.begin) if edit.begin is not None else None,
        strength=f", strength {edit.strength:g}" if edit.strength not in (None, 1.0) else "",
        mask=_picture(edit.mask) if edit.mask is not None else None,
        negative=edit.negative or "",
        takes=[(_parts(take.output), _alt(take, about)) for take in takes],
        footer=", ".join(filter(None, [first.key or f"prompt {first.index + 1}", *notes, *ends])),
        width=max([240, *widths]) if len(takes) == 1 else 0,
    )


def _alt(take: Record, about: str) -> str:
    """What a drawn picture was drawn for: the text before it, of the prompt or of the model."""
    written = "".join(part.text or "" for part in take.output).strip()
    words = about or written
    number = f", sample {take.take + 1}" if take.take else ""
    return (f"drawn for: {words}" if words else "drawn from nothing") + number


def _parts(parts: list[Part]) -> list[_Part]:
    shown = []
    for part in parts:
        if part.image is not None:
            shown.append(_picture(part))
        elif part.text and part.text.strip():
            shown.append(_Part(part.text.strip(" "), scrolls=len(part.text) > _SCROLLS))
    return shown


def _picture(part: Part) -> _Part:
    height, width = _size(part)
    original = None if part.original is None else _picture(Part(image=part.original, size=part.size))
    small = part.size is not None and min(part.size) < SHOWN
    return _Part("", False, part.image or "", width, height, small, part.animation or "", original)


def _size(part: Part) -> tuple[int, int]:
    """Height and width on the page: small pictures are enlarged by a whole number."""
    height, width = part.size or (SHOWN, SHOWN)
    scale = enlargement(height, width)
    return height * scale, width * scale
