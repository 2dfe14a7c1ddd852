"""`report.html` of a training: curves, previews, settings, lineage. One static file without scripts; written again at each save,
so that it shows the progress of a running training."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import BaseModel

from stages.artifacts.checkpoint import CAPTIONS, PREVIEWS, REPORT, TRUTH
from stages.artifacts.folder import Build
from stages.artifacts.manifest import InputEntry, read_manifest
from stages.core.errors import TfcliError
from stages.core.files import write_atomic
from stages.core.reading import read_bounded
from stages.pages.charts import Line, chart, loss_charts
from stages.pages.html import render_html
from stages.train_model.monitor.metrics import SKIPPED, MetricsLog
from stages.train_model.monitor.previews import strip_files

_STRIPS = 12  # of the previews, evenly spread, the newest among them
_TEMPLATE = "train_model/monitor/report.html"


def write_report(build: Build, summary: str, log: MetricsLog, settings: Mapping[str, BaseModel]) -> None:
    """Write the page into the growing folder. summary: the line below the title. settings: recipe sections by name."""
    left = (log.timing[-1].get("seconds_left") or 0) if log.timing else 0
    summary += f"; about {left / 60:,.0f} min left" if left else ""
    ancestors = ancestors_of(build.stamp.inputs, build.target)
    page = render(f"Training of {build.target}", summary, log, previews(build.folder), settings, ancestors)
    write_atomic(build.folder / REPORT, page.encode("utf-8", "replace"))


@dataclass(frozen=True)
class Strips:
    """Previews: captions, and below them strips of pictures as (label, data URL)."""

    captions: list[str] = field(default_factory=list)
    strips: list[tuple[str, str]] = field(default_factory=list)


def render(
    title: str,
    summary: str,
    log: MetricsLog,
    strips: Strips,
    settings: Mapping[str, BaseModel],
    ancestors: list[tuple[str, str, str]],
) -> str:
    """The page as HTML text.

    Args:
        title: of the page.
        summary: the line below the title.
        log: the metrics and timings to plot.
        strips: the previews.
        settings: recipe sections by name.
        ancestors: kind, folder and digest of each artifact that the training was made from.
    """
    return render_html(
        _TEMPLATE,
        title=title,
        summary=summary,
        figures=[figure for figure in curves(log.metrics, log.timing) if figure],
        captions=strips.captions,
        strips=strips.strips,
        settings={
            name: {key: json.dumps(value, ensure_ascii=False) for key, value in section.model_dump(mode="json").items()}
            for name, section in settings.items()
        },
        ancestors=ancestors,
    )


def curves(metrics: list[dict[str, Any]], timing: list[dict[str, Any]]) -> Iterator[Markup]:
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


def previews(folder: Path) -> Strips:
    """The strips by step, with their captions; empty where there are no previews."""
    found = strip_files(folder)
    if not found:
        return Strips()
    rows = [
        ("held-out pictures, through the autoencoder", folder / PREVIEWS / TRUTH),
        *((f"step {step:,}", path) for step, path in _spread(found)),
    ]
    return Strips(
        json.loads(read_bounded(folder / PREVIEWS / CAPTIONS)), [(label, _data_url(path)) for label, path in rows]
    )


def ancestors_of(inputs: dict[str, InputEntry], folder: Path) -> list[tuple[str, str, str]]:
    """Kind, folder and digest of all that the artifact at `folder` is made from, nearest first, each once."""
    found: dict[str, tuple[str, str, str]] = {}
    waiting = [(folder, entry) for entry in inputs.values()]
    while waiting:
        base, entry = waiting.pop(0)
        path = (base / entry.path).resolve()
        if entry.digest in found:
            continue
        found[entry.digest] = (entry.kind, str(path), entry.digest[:12])
        try:
            manifest = read_manifest(path)
        except TfcliError:
            manifest = None
        if manifest is not None and manifest.digest == entry.digest:
            waiting += [(path, below) for below in manifest.inputs.values()]
    return list(found.values())


def _spread(strips: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """At most _STRIPS of them, evenly spaced, including the last."""
    count = min(_STRIPS, len(strips))
    return [strips[(index + 1) * len(strips) // count - 1] for index in range(count)]


def _data_url(path: Path) -> str:
    return f"data:image/png;base64,{b64encode(read_bounded(path)).decode('ascii')}"
