"""What an artifact's own files tell beyond its manifest: failures by reason, pieces of a vocabulary, losses, samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from stages.artifacts.checked import CheckedFiles
from stages.artifacts.manifest import Manifest
from stages.core.text import shortened
from tfcli import render

_EXAMPLES = 6  # lines of a kind
_LONGEST = 90  # characters of a text


def highlights(folder: Path, manifest: Manifest) -> Iterator[tuple[str, Table]]:
    """(title, table). Only files that the manifest lists are read, and compared with their sums; an artifact without them has
    nothing to tell."""
    files = CheckedFiles(folder, manifest)
    if manifest.kind == "latents" and files.has("errors.jsonl"):
        yield from _failures(files.lines("errors.jsonl"))
        yield from _documents(files)
    if manifest.kind == "tokens" and files.has("tokenizer.model"):
        yield "pieces of the vocabulary", _pieces(files)
    if manifest.kind in ("checkpoint", "autoencoder") and files.has("metrics.jsonl"):
        yield from _metrics(list(files.lines("metrics.jsonl")))
    if manifest.kind == "samples" and files.has("records.jsonl"):
        yield from _records(list(files.lines("records.jsonl")))
    if manifest.kind == "scores" and files.has("judged.jsonl"):
        yield from _judged(files.lines("judged.jsonl"))


def _failures(rows: Iterable[Any]) -> Iterator[tuple[str, Table]]:
    numbers: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for row in rows:
        numbers[row["reason"]] += 1
        examples.setdefault(row["reason"], f"{row['path']}: {row['message']}")
    if numbers:
        lines = [(reason, f"{number:,}", examples[reason]) for reason, number in numbers.most_common()]
        yield "left out, by reason", render.rows(("  reason", "number", "for example"), _indented(lines))


def _documents(files: CheckedFiles) -> Iterator[tuple[str, Table]]:
    lines: list[tuple[str, str]] = []
    for name in sorted(files.names("documents")):
        for row in files.lines(name):  # to its end, where the sum is compared
            if len(lines) < _EXAMPLES:
                parts = [
                    _cut(part["text"]) if "text" in part else f"[picture {part['image']}]" for part in row["segments"]
                ]
                lines.append((row["key"], _cut(" ".join(parts))))
        if len(lines) == _EXAMPLES:
            break
    if lines:
        yield "first documents", render.rows(("  key", "text and pictures"), _indented(lines))


def _pieces(files: CheckedFiles) -> Table:
    from stages.artifacts.tokens import TOKENIZER
    from stages.coders.text import TextCoder

    coder = TextCoder.load(files.path(TOKENIZER))
    pieces = [(number, coder.decode([number])) for number in range(coder.vocab_size)]
    words = [(number, piece) for number, piece in pieces if len(piece.strip()) > 1]
    longest = sorted(words, key=lambda pair: (-len(pair[1]), pair[0]))[:12]
    values = {
        "longest": "  ".join(f"'{piece}'" for _, piece in longest),
        "first": "  ".join(f"'{piece}'" for _, piece in words[:16]),
        "last": "  ".join(f"'{piece}'" for _, piece in words[-16:]),
    }
    return render.pairs(values)


def _metrics(rows: list[Any]) -> Iterator[tuple[str, Table]]:
    """The first row, the last, and some between; the columns are the names that occur, held-out ones where they were taken."""
    heldout = [row for row in rows if any(name.startswith("heldout") for name in row)] or rows
    indices = sorted({index * (len(heldout) - 1) // max(1, _EXAMPLES - 1) for index in range(_EXAMPLES)})
    chosen = [heldout[index] for index in indices] if heldout else []
    names = list(dict.fromkeys(name for row in chosen for name in row))
    if chosen and "step" in names:
        lines = [tuple(_figure(row.get(name)) for name in names) for row in chosen]
        yield "losses by step", render.rows((f"  {names[0]}", *names[1:]), _indented(lines))


def _records(rows: list[Any]) -> Iterator[tuple[str, Table]]:
    # one of each mode first, so that all of them are seen
    first = {row["mode"]: row for row in reversed(rows)}.values()
    chosen = [*first, *(row for row in rows if row not in list(first))][:_EXAMPLES]
    chosen.sort(key=rows.index)
    lines = [(row["mode"], _cut(_parts(row["prompt"])), _cut(_parts(row["output"])), row["ended"]) for row in chosen]
    if lines:
        yield "some of them", render.rows(("  mode", "given", "written and drawn", "ended by"), _indented(lines))


def _judged(rows: Iterable[Any]) -> Iterator[tuple[str, Table]]:
    totals: Counter[str] = Counter()
    right: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    for row in rows:
        if isinstance(row.get("mode"), str) and isinstance(row.get("right"), bool):
            totals[row["mode"]] += 1
            right[row["mode"]] += row["right"]
            if not row["right"]:
                wrong.setdefault(row["mode"], _cut(str(row.get("text", ""))))
    if totals:
        lines = [(mode, f"{right[mode]} of {number}", wrong.get(mode, "")) for mode, number in totals.items()]
        yield "judged", render.rows(("  mode", "right", "the first wrong one"), _indented(lines))


def _parts(parts: list[dict[str, Any]]) -> str:
    shown = [f"[{part['image']}]" if part.get("image") else str(part.get("text") or "") for part in parts]
    return " ".join(shown) or "(nothing)"


def _cut(text: str) -> str:
    """A text on one line, its end left out where it is long."""
    return shortened(" ".join(text.split()), _LONGEST)


def _figure(value: Any) -> str:
    return "" if value is None else render.people_text(value)


def _indented(lines: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [(f"  {line[0]}", *line[1:]) for line in lines]
