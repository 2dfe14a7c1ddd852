"""The static page of Samples: documents as a person reads them, and the losses of the run as a plot. No scripts."""

from __future__ import annotations

from html import escape
from typing import Any

from stages.artifacts.samples import Part, Record

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --card: #8881; --a: #2563eb; --b: #d9480f; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .85rem; overflow-wrap: anywhere; }
dt { opacity: .7; } dd { margin: 0; }
.documents { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .8rem; overflow-wrap: anywhere; }
article img { width: 128px; height: 128px; image-rendering: pixelated; border-radius: 4px; display: block; margin: .4rem 0; }
article .prompt { border-left: 3px solid var(--a); padding-left: .6rem; }
article .output { border-left: 3px solid var(--b); padding-left: .6rem; margin-top: .4rem; }
article footer { font-size: .75rem; opacity: .65; margin-top: .4rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; } figcaption { font-size: .85rem; }
svg { border: 1px solid var(--line); border-radius: 8px; } svg text { fill: currentColor; font-size: 11px; }
.key { font-size: .85rem; } .key b { font-weight: 600; }
"""


def render_page(
    title: str, settings: dict[str, str], metrics: list[dict[str, Any]], sections: dict[str, list[Record]]
) -> str:
    """The whole HTML text. metrics: rows of metrics.jsonl; sections: heading -> records."""
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in settings.items())
    plots = plot(metrics, "text_loss", "Text: nats per token") + plot(
        metrics, "image_loss", "Images: squared noise error"
    )
    body = "".join(_section(heading, records) for heading, records in sections.items() if records)
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><p class='key'>In each document <b style='color:var(--a)'>blue</b> marks what was given "
        f"and <b style='color:var(--b)'>orange</b> what the model wrote and drew.</p><dl>{facts}</dl>"
        f"<h2>Losses</h2><div class='plots'>{plots}</div>{body}</body></html>\n"
    )


def _section(heading: str, records: list[Record]) -> str:
    cards = "".join(_card(record) for record in records)
    return f"<section><h2>{escape(heading)}</h2><div class='documents'>{cards}</div></section>"


def _card(record: Record) -> str:
    prompt = f"<div class='prompt'>{_parts(record.prompt)}</div>" if record.prompt else ""
    key = f"{escape(record.key)}, " if record.key else ""
    ended = {"eos": "ended by itself", "images": "picture limit", "text": "text limit", "length": "length limit"}
    footer = f"<footer>{key}{ended.get(record.ended, record.ended)}</footer>"
    return f"<article>{prompt}<div class='output'>{_parts(record.output)}</div>{footer}</article>"


def _parts(parts: list[Part]) -> str:
    shown = []
    for part in parts:
        if part.image is not None:
            shown.append(f"<img src='{escape(part.image)}' alt='picture of this document' loading='lazy'>")
        else:
            shown.append(f"<span>{escape(part.text or '')}</span>")
    return "".join(shown) or "<i>nothing</i>"


def plot(metrics: list[dict[str, Any]], name: str, caption: str) -> str:
    """An SVG line plot of a loss on training (thin) and held-out rows (thick) by step."""
    lines = {key: [(row["step"], row[key]) for row in metrics if key in row] for key in (name, f"heldout_{name}")}
    points = [point for line in lines.values() for point in line]
    if len(points) < 2:
        return ""
    width, height, margin = 460, 240, 40
    last = max(step for step, _ in points) or 1
    # The first values of an untrained model would squeeze the rest: the axis ends at the 95th percentile.
    values = sorted(value for _, value in points)
    low, high = (
        values[0],
        max(values[int(len(values) * 0.95)], lines[f"heldout_{name}"][0][1] if lines[f"heldout_{name}"] else 0),
    )
    span = (high - low) or 1.0

    def place(step: float, value: float) -> str:
        x = margin + (width - margin - 10) * step / last
        y = 10 + (height - margin - 10) * (1 - (min(value, high) - low) / span)
        return f"{x:.1f},{y:.1f}"

    drawn = ""
    for key, colour, thickness in ((name, "var(--a)", 1), (f"heldout_{name}", "var(--b)", 2.5)):
        path = " ".join(place(step, value) for step, value in lines[key])
        drawn += f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='{thickness}'/>"
    labels = (
        f"<text x='4' y='18'>{high:.3g}</text><text x='4' y='{height - margin}'>{low:.3g}</text>"
        f"<text x='{margin}' y='{height - 12}'>0</text>"
        f"<text x='{width - 10}' y='{height - 12}' text-anchor='end'>step {last}</text>"
    )
    final = lines[f"heldout_{name}"][-1][1] if lines[f"heldout_{name}"] else values[0]
    return (
        f"<figure><svg width='{width}' height='{height}' role='img' aria-label='{escape(caption)}'>{drawn}{labels}</svg>"
        f"<figcaption>{escape(caption)}: training (blue), held out (orange, ends at {final:.4g})</figcaption></figure>"
    )
