"""`report.html` of a training: curves, previews, settings, lineage. One static file, nothing fetched and nothing run; made
anew at each save, so that it can be looked at while the model learns."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stages.artifacts.checkpoint import CAPTIONS, PREVIEWS, REPORT, TRUTH
from stages.artifacts.folder import Build
from stages.artifacts.manifest import InputEntry, read_manifest
from stages.core.curves import STYLE, Line, chart, loss_charts
from stages.core.errors import TfcliError
from stages.core.files import write_atomic
from stages.core.reading import read_bounded
from stages.train_model.journal import SKIPPED, Journal
from stages.train_model.previews import strips

_STRIPS = 12  # of the previews, evenly spread, the newest among them
_STYLE = (
    STYLE
    + """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .8rem; }
.facts { opacity: .75; margin: 0; }
table { border-collapse: collapse; font-size: .85rem; } td, th { text-align: left; vertical-align: top;
  padding: .15rem 1rem .15rem 0; }
th { font-weight: 600; } td:first-child { opacity: .75; }
.settings { columns: 24rem; column-gap: 3rem; } .settings table { break-inside: avoid; margin-bottom: 1rem; }
.previews { display: grid; grid-template-columns: max-content 1fr; gap: .3rem .8rem; align-items: center;
  font-size: .8rem; max-width: 62rem; }
.previews img { width: 100%; display: block; border-radius: 4px; image-rendering: pixelated; }
.captions { display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; align-items: end; font-size: .75rem;
  line-height: 1.25; }
.captions span { padding: 0 .3rem; overflow-wrap: anywhere; }
code { font-size: .8rem; }
"""
)


def write_report(build: Build, facts: str, journal: Journal, settings: Mapping[str, BaseModel]) -> None:
    """Write the page into the folder that grows. facts: a line below the title. settings: sections by name."""
    left = journal.timing[-1]["seconds_left"] if journal.timing else 0
    facts += f"; some {left / 60:,.0f} min left" if left else ""
    ancestors = lineage(build.stamp.inputs, build.target)
    page = render(f"Training of {build.target}", facts, journal, previews(build.folder), settings, ancestors)
    write_atomic(build.folder / REPORT, page.encode("utf-8", "replace"))


def render(
    title: str,
    facts: str,
    journal: Journal,
    drawn: str,
    settings: Mapping[str, BaseModel],
    ancestors: list[tuple[str, str, str]],
) -> str:
    """The whole HTML text. drawn: the previews as HTML. ancestors: kind, folder and digest."""
    figures = "".join(curves(journal.metrics, journal.timing)) or "<p>no figures yet</p>"
    sections = "".join(_section(name, section) for name, section in settings.items())
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in ancestors)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><p class='facts'>{escape(facts)}</p>"
        f"<h2>Curves by step</h2><div class='curves'>{figures}</div>{drawn}"
        f"<h2>Settings</h2><div class='settings'>{sections}</div>"
        f"<h2>Made from</h2><table><tr><th>artifact</th><th>folder</th><th>digest</th></tr>{rows}</table></body></html>\n"
    )


def curves(metrics: list[dict[str, Any]], timing: list[dict[str, Any]]) -> Iterator[str]:
    """The figures of the page, without those that have nothing to show."""

    def line(name: str, key: str, colour: int = 0, *, raw: bool = False) -> Line:
        rows = timing if key not in _METRICS and not key.startswith("heldout") else metrics
        return Line(name, [(row["step"], row[key]) for row in rows if row.get(key) is not None], colour, raw)

    yield from loss_charts(metrics)
    levels = sorted(
        {key for row in metrics for key in row if key.startswith("heldout_image_loss_t")}, key=lambda k: (len(k), k)
    )
    ends = [key.rpartition("_t")[2] for key in levels]
    parts = [
        line(f"t {begin} to {end} %", key, number % 4)
        for number, (key, begin, end) in enumerate(zip(levels, ["0", *ends], ends, strict=False))
    ]
    yield chart("Held-out image loss by noise level", parts, logarithmic=True)
    yield chart("Gradient norm", [line("before clipping", "grad_norm", raw=True)], logarithmic=True)
    yield chart("Learning rate", [line("rate", "learning_rate")], from_zero=True)
    yield chart(
        "Elements a second",
        [line("content", "elements_per_second", raw=True), line("with padding", "places_per_second", 3, raw=True)],
        from_zero=True,
    )
    yield chart("Model FLOPs of the device's best", [line("MFU", "mfu", raw=True)], percent=True, from_zero=True)
    yield chart(
        "Share of time that batches take", [line("batches", "loading_share", raw=True)], percent=True, from_zero=True
    )
    gigabytes = [(row["step"], row["memory_bytes"] / 1e9) for row in timing if row.get("memory_bytes")]
    most = [(row["step"], row["peak_memory_bytes"] / 1e9) for row in timing if row.get("peak_memory_bytes")]
    yield chart("Memory, GB", [Line("now", gigabytes), Line("at most", most, 1)], from_zero=True)


_METRICS = {"grad_norm", "learning_rate", SKIPPED}


def previews(folder: Path) -> str:
    """The strips by step below their captions; empty where nothing was drawn."""
    found = strips(folder)
    if not found:
        return ""
    captions = json.loads(read_bounded(folder / PREVIEWS / CAPTIONS))
    texts = "".join(f"<span>{escape(caption)}</span>" for caption in captions)
    chosen = _spread(found)
    rows = [
        ("held-out pictures, through the autoencoder", folder / PREVIEWS / TRUTH),
        *((f"step {step:,}", path) for step, path in chosen),
    ]
    body = "".join(f"<span>{label}</span>{_image(path, label)}" for label, path in rows)
    return f"<h2>Held-out captions drawn</h2><div class='previews'><span></span><div class='captions'>{texts}</div>{body}</div>"


def lineage(inputs: dict[str, InputEntry], folder: Path) -> list[tuple[str, str, str]]:
    """Kind, folder and digest of all that the artifact at `folder` is made from, nearest first, each once."""
    found: dict[str, tuple[str, str, str]] = {}
    waiting = [(folder, entry) for entry in inputs.values()]
    while waiting:
        base, entry = waiting.pop(0)
        place = (base / entry.path).resolve()
        if entry.digest in found:
            continue
        found[entry.digest] = (entry.kind, str(place), entry.digest[:12])
        try:
            manifest = read_manifest(place)
        except TfcliError:
            manifest = None
        if manifest is not None and manifest.digest == entry.digest:
            waiting += [(place, below) for below in manifest.inputs.values()]
    return list(found.values())


def _spread(strips: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """At most _STRIPS of them, evenly, the last one among them."""
    count = min(_STRIPS, len(strips))
    return [strips[(place + 1) * len(strips) // count - 1] for place in range(count)]


def _image(path: Path, label: str) -> str:
    return f"<img alt='{escape(label)}' src='data:image/png;base64,{b64encode(read_bounded(path)).decode('ascii')}'>"


def _section(name: str, section: BaseModel) -> str:
    rows = "".join(
        f"<tr><td>{escape(key)}</td><td><code>{escape(json.dumps(value, ensure_ascii=False))}</code></td></tr>"
        for key, value in section.model_dump(mode="json").items()
    )
    return f"<table><tr><th colspan='2'>{escape(name)}</th></tr>{rows}</table>"
