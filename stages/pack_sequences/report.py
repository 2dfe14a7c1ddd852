"""What packing did: fill and waste in numbers, lengths as a histogram."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.artifacts.sequences import RowTable
from stages.artifacts.tables import DocumentTable, ImageTable, IntArray
from stages.artifacts.tokens import Tokens
from stages.coders.pixels import encode_png
from stages.pack_sequences.config import PackConfig


def summary(
    train: RowTable,
    heldout: RowTable,
    late: RowTable | None,
    left_out: dict[str, int],
    lengths: IntArray,
    pack: PackConfig,
    source: Tokens,
) -> dict[str, Any]:
    """Counts and shares of both sides, documents left out by reason, quantiles of document lengths."""
    documents = DocumentTable(train.documents)
    elements = train.ids.size
    used = int(documents.length.sum())
    patches = int(ImageTable(train.images).patches.sum())
    first_text = documents.image_first == 0
    quantiles = np.quantile(lengths, [0, 0.5, 0.9, 1]).astype(int).tolist()
    return {
        "rows": len(train.ids),
        "heldout_rows": len(heldout.ids),
        "documents": len(np.unique(documents.document)),
        "heldout_documents": len(np.unique(DocumentTable(heldout.documents).document)),
        "laid_out_by_source": _by_source(train, source),
        **({} if late is None else {"late_rows": len(late.ids), "late_by_source": _by_source(late, source)}),
        "images": len(train.images),
        "fill": used / elements,
        "unused_places": elements - used,
        "text_elements": used - patches,
        "patch_elements": patches,
        "text_to_image": (used - patches) / max(1, patches),
        "begins_with_text": float(first_text.mean()),
        "caption_dropped": float(documents.caption_dropped.mean()),
        "left_out": left_out,
        "length_min_median_p90_max": quantiles,
        "passes": pack.passes,
    }


def _by_source(table: RowTable, source: Tokens) -> dict[str, int]:
    counts = np.bincount(
        source.array("sources")[DocumentTable(table.documents).document], minlength=len(source.content.sources)
    )
    return dict(zip(source.content.sources, counts.tolist(), strict=True))


def report_text(report: dict[str, Any], lengths: IntArray, row_length: int) -> str:
    """The same for people, with the lengths of documents as bars."""
    lines = [f"{name:26} {_plain(value)}" for name, value in report.items()]
    counts, edges = np.histogram(lengths, bins=16, range=(0, row_length))
    lines += ["", "elements of a document"]
    for count, low, high in zip(counts.tolist(), edges, edges[1:], strict=False):
        bar = "#" * int(np.ceil(50 * count / max(1, counts.max())))
        lines.append(f"{low:7.0f} to {high:6.0f} {count:12,} {bar}")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_plain(number)} {name}" for name, number in value.items())
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"


def histogram(lengths: IntArray, row_length: int) -> bytes:
    """A PNG of 512 x 160: 64 bars from 0 to the row length, each as high as its share of documents."""
    counts, _ = np.histogram(lengths, bins=64, range=(0, row_length))
    heights = np.ceil(counts / max(1, counts.max()) * 150).astype(int)
    picture = np.full((160, 512, 3), 250, dtype=np.uint8)
    for bar, height in enumerate(heights):
        picture[155 - height : 155, 8 * bar + 1 : 8 * bar + 7] = (37, 99, 235)
    picture[155:156] = 90
    return encode_png(picture)
