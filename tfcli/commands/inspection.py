"""inspect: what an artifact holds, as a summary, as pictures with captions, or as one packed row."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stages.artifacts.manifest import FileEntry
from stages.core.errors import ExitCode, TfcliError
from tfcli import options, render
from tfcli.commands.found import FoundArtifact, artifacts_at, follow, partials, require_output_path
from tfcli.commands.highlights import highlights

_HINTS = {
    "autoencoder": "look at it: tfcli inspect {} --images",
    "latents": "look at the pictures as they are stored: tfcli inspect {} --images",
    "sequences": "look at a row: tfcli inspect {} --row 0",
    "samples": "look at them: tfcli inspect {} --images",
    "checkpoint": "curves and previews of the training: {}/report.html",
}
_SHOW = "What to show"
_Side = Literal["train", "heldout"]


def inspect(
    path: options.ArtifactArgument,
    images: Annotated[
        bool, typer.Option("--images", help="Write pictures with their captions as a page.", rich_help_panel=_SHOW)
    ] = False,
    count: Annotated[
        int, typer.Option("--count", min=1, help="With --images: how many documents.", rich_help_panel=_SHOW)
    ] = 16,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="With --images: .html (a page with captions) or .png (pictures alone). Default: WORK-KIND.html here.",
            show_default=False,
            rich_help_panel=_SHOW,
        ),
    ] = None,
    row: Annotated[
        int | None,
        typer.Option(
            "--row", metavar="N", help="Print row N of sequences, from 0.", show_default=False, rich_help_panel=_SHOW
        ),
    ] = None,
    side: Annotated[
        str, typer.Option("--side", metavar="SIDE", help="Of sequences: train or heldout.", rich_help_panel=_SHOW)
    ] = "train",
    device: options.DeviceOption = "auto",
    json: options.JsonOption = False,
    verbose: options.VerboseOption = False,
    _debug: options.DebugOption = False,
) -> None:
    """Show what an artifact holds and how it was made, or list the artifacts of a work folder.

    \b
    Examples: tfcli inspect work/smoke
              tfcli inspect work/smoke/latents --json
              tfcli inspect work/smoke/latents --images --count 40
              tfcli inspect work/smoke/sequences --row 0 --side heldout
    """
    if side not in ("train", "heldout"):
        raise TfcliError(f"no side {side}", fix="train or heldout", code=ExitCode.USAGE)
    chosen: _Side = "train" if side == "train" else "heldout"
    _check_options(images, row, out)
    found = artifacts_at(path)
    single = found[0].folder == path if found else False
    if (images or row is not None) and not single:
        what = f"{path} is a work folder"
        raise TfcliError(what, fix=f"name one of its artifacts, such as {path / 'latents'}", code=ExitCode.USAGE)
    if images:
        _show_images(found[0], count, chosen, device, out, json)
    elif row is not None:
        _show_row(found[0], chosen, row, json)
    elif json:
        objects = [_as_json(item) for item in found]
        render.show_json(
            objects[0] if single else {"work": str(path), "artifacts": objects, "unfinished": partials(path)}
        )
    elif single:
        _show_artifact(found[0], verbose)
    else:
        cells = [_work_row(item) for item in found]
        cells += [(name, "not finished: run its stage again", "", "", "") for name in partials(path)]
        render.show(render.rows(("folder", "made", "digest", "files", "size"), cells))


def _check_options(images: bool, row: int | None, out: Path | None) -> None:
    if images and row is not None:
        raise TfcliError("--images and --row exclude each other", fix="leave one of them out", code=ExitCode.USAGE)
    if out is not None and not images:
        raise TfcliError("--out needs --images", fix="add --images", code=ExitCode.USAGE)
    if out is not None and out.suffix.lower() not in (".html", ".png"):
        raise TfcliError(f"--out {out}: neither .html nor .png", fix="name a .html or a .png", code=ExitCode.USAGE)


def _show_images(item: FoundArtifact, count: int, side: _Side, device: str, out: Path | None, json: bool) -> None:
    import numpy as np

    from stages.coders.pixels import encode_png
    from stages.coders.sheets import contact_sheet
    from stages.core.files import write_atomic
    from stages.pages.html import enlargement
    from stages.preview.cards import ABOUT, card_caption, cards_of, pictures_of_cards
    from stages.preview.page import cards_page

    kind = item.manifest.kind
    resolved = item.folder.resolve()
    out = out or Path(f"{resolved.parent.name}-{resolved.name}.html")
    require_output_path(out, "--out")
    cards = cards_of(item.folder, kind, count=count, side=side, device=device)
    pictures = pictures_of_cards(cards)
    if out.suffix.lower() == ".png":
        if not pictures:
            raise TfcliError(f"{item.folder} has no pictures to show", code=ExitCode.USAGE)
        columns = max(1, round(len(pictures) ** 0.5 * 1.3))
        scales = [enlargement(*picture.shape[:2]) for picture in pictures]
        large = [np.kron(one, np.ones((n, n, 1), np.uint8)) for one, n in zip(pictures, scales, strict=True)]
        write_atomic(out, encode_png(contact_sheet(large, columns, gap=8)))
    else:
        documents = [card for card in cards if not card.is_sheet]
        counted = f"{len(documents)} documents, {len(pictures_of_cards(documents))} pictures; " if documents else ""
        summary = f"{counted}digest {render.short(item.manifest.digest)}"
        write_atomic(out, cards_page(f"{kind}: {item.folder}", summary, cards, ABOUT.get(kind, "")).encode("utf-8"))
    if json:
        shown = [{"title": card.title, "text": card_caption(card)} for card in cards]
        render.show_json({"path": str(out), "kind": kind, "pictures": len(pictures), "documents": shown})
        return
    if out.suffix.lower() == ".png" and sys.stdout is not None and sys.stdout.isatty():
        # a PNG has no room for captions: they are printed here, in the order of the pictures
        render.show(*[f"{card.title}: {card_caption(card)}" for card in cards])
    render.show_path(out)


def _show_row(item: FoundArtifact, side: _Side, row: int, json: bool) -> None:
    from dataclasses import asdict

    from stages.artifacts.sequences import Sequences
    from stages.preview.rows import read_rows
    from tfcli.commands.packed import show_packed

    if item.manifest.kind != "sequences":
        what = f"{item.folder} holds {item.manifest.kind}; only sequences have rows"
        raise TfcliError(what, fix=f"give {item.folder.parent / 'sequences'}", code=ExitCode.USAGE)
    packed = read_rows(Sequences.open(item.folder), side, range(row, row + 1))[0]
    if json:
        render.show_json(asdict(packed))
    else:
        show_packed(packed)


def _as_json(item: FoundArtifact) -> dict[str, Any]:
    manifest = item.manifest
    files = {"number": len(manifest.files), "bytes": sum(entry.bytes for entry in manifest.files)}
    return {
        "path": str(item.folder),
        **manifest.model_dump(
            include={"kind", "stage", "stage_version", "fingerprint", "digest", "seed", "content", "stats"}
        ),
        "files": files,
        "inputs": {name: entry.model_dump() for name, entry in manifest.inputs.items()},
        "provenance": manifest.provenance,
    }


def _work_row(item: FoundArtifact) -> tuple[str, ...]:
    manifest = item.manifest
    size = sum(entry.bytes for entry in manifest.files)
    made = str(manifest.provenance.get("finished", ""))
    return (item.folder.name, made, render.short(manifest.digest), str(len(manifest.files)), render.size_text(size))


def _show_artifact(item: FoundArtifact, verbose: bool) -> None:
    manifest = item.manifest
    finished = str(manifest.provenance.get("finished", "")).replace("T", " ").replace("+00:00", " UTC")
    made = {
        "made": f"{finished} by tfcli {manifest.stage}, stage version {manifest.stage_version}, seed {manifest.seed}",
        "digest": manifest.digest if verbose else render.short(manifest.digest),
        "fingerprint": manifest.fingerprint if verbose else render.short(manifest.fingerprint),
    }
    render.show(f"{manifest.kind}  {item.folder}", render.pairs(made))
    for title, values in (("content", manifest.content), ("stats", manifest.stats)):
        if values:
            render.show("", title, render.pairs(values if verbose else _shortened(values)))
    for title, part in highlights(item.folder, manifest):
        render.show("", title, part)
    if manifest.inputs:
        render.show("", "made from")
    for entry in manifest.inputs.values():
        folder, _, state = follow(item.folder, entry)
        render.show(f"  {entry.kind}  {folder}  digest {render.short(entry.digest)}  {state or 'ok'}")
    size = render.size_text(sum(entry.bytes for entry in manifest.files))
    render.show("", f"files: {len(manifest.files)}, {size}", render.pairs(_file_summary(manifest.files)))
    has_report = manifest.kind != "checkpoint" or any(entry.path == "report.html" for entry in manifest.files)
    if has_report and (hint := _HINTS.get(manifest.kind)):
        render.show("", hint.format(item.folder))


def _shortened(values: dict[str, Any]) -> dict[str, Any]:
    """Sums of 64 digits by their first twelve."""
    return {
        name: render.short(value) if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else value
        for name, value in render.flat(values).items()
    }


def _file_summary(files: list[FileEntry]) -> dict[str, Any]:
    """Files at the top by name, folders by their number of files and bytes."""
    sizes: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for entry in files:
        top, slash, _ = entry.path.partition("/")
        sizes[top + slash] += entry.bytes
        numbers[top + slash] += 1
    return {
        name: render.size_text(sizes[name]) + (f" in {numbers[name]} files" if name.endswith("/") else "")
        for name in sorted(sizes)
    }
