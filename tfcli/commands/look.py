"""What 'tfcli inspect' shows beside the summary: the pictures of an artifact as a page, and a packed row in colour."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

from rich.text import Text

from stages.artifacts.manifest import Manifest
from stages.core.errors import ExitCode, TfcliError
from stages.core.files import write_atomic
from stages.sources.text_rules import printable
from tfcli import render

_STYLES = {
    "bos": "bold green",
    "eos": "bold green",
    "boi": "bold magenta",
    "eoi": "bold magenta",
    "image": "black on magenta",
    "text": "",
    "padding": "dim",
}


def show_pictures(folder: Path, manifest: Manifest, count: int, out: Path | None, device: str) -> None:
    """Write a page with pictures of the artifact, or name the ones that it has, and print the path."""
    ready = {"autoencoder": "reconstruction.png", "samples": "index.html", "scores": "mistakes.png"}
    if manifest.kind in ready and (folder / ready[manifest.kind]).exists():
        render.show_path(folder / ready[manifest.kind])
        return
    if manifest.kind not in ("latents", "sequences"):
        raise TfcliError(
            f"{manifest.kind} hold no pictures",
            fix="give latents, sequences, an autoencoder or samples",
            code=ExitCode.USAGE,
        )
    from stages.inspection.pictures import picture_page  # here: it loads torch

    target = out or Path(f"{folder.resolve().parent.name}-{folder.resolve().name}.html")
    page, _ = picture_page(folder, manifest.kind, count, device)
    write_atomic(target, page.encode("utf-8", "backslashreplace"))
    render.show_path(target)


def show_row(folder: Path, manifest: Manifest, row: int, side: str, json: bool) -> None:
    """Print a packed row of Sequences: a line for each document, its spans coloured on a terminal."""
    from stages.inspection.rows import row_spans  # here: it reads arrays

    if manifest.kind != "sequences":
        raise TfcliError(f"{folder} holds {manifest.kind}: it has no rows", fix="give sequences", code=ExitCode.USAGE)
    if side not in ("train", "heldout"):
        raise TfcliError(f"no side {side}", fix="train or heldout", code=ExitCode.USAGE)
    spans = row_spans(folder, cast(Literal["train", "heldout"], side), row)
    if json:
        render.show_json({"row": row, "side": side, "spans": [vars(span) for span in spans]})
        return
    line = Text()
    for span in spans:
        if span.kind == "bos" or (span.kind == "padding" and line):
            if line:
                render.show(line)
            line = Text(f"{span.start:6}  ", style="dim")
        shown = {
            "image": f"[{span.length} patches: {printable(span.shown)}]",
            "text": printable(span.shown),
            "padding": f"[{span.length} places unused]",
        }.get(span.kind, f"<{span.kind}>")
        line.append(shown, style=_STYLES[span.kind])
    if line:
        render.show(line)
