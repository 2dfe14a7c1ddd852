"""Draw and write with a finished checkpoint: Checkpoint + prompts -> Samples (PNGs, records, grid, page)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from stages.artifacts.checkpoint import Checkpoint
from stages.artifacts.folder import Build
from stages.artifacts.latents import caption_of
from stages.artifacts.samples import GRID, PAGE, RECORDS, Part, Record
from stages.coders.pixels import Pixels, contact_sheet, encode_png
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Progress, Warn
from stages.core.files import write_atomic, write_jsonl
from stages.core.runtime import Runtime
from stages.core.seeds import derive_seed
from stages.generation.engine import Engine
from stages.generation.heldout import heldout_documents, is_pair, pieces_of
from stages.generation.loading import LoadedModel, load_model
from stages.generation.prompts import ImagePiece, Output, Piece, Prompt, TextPiece
from stages.sample_model.config import SampleConfig
from stages.sample_model.page import render_page

# Modes in the order of the page, with the heading that a reader sees.
MODES = {
    "prompts": "Your prompts",
    "heldout_prompts": "Text to image, held-out prompts",
    "captions": "Image to text, held-out pictures",
    "continued": "Held-out documents continued",
    "free": "Written and drawn from nothing",
}


@dataclass(frozen=True)
class _Task:
    """A prompt with its mode and the key of the document that it comes from."""

    mode: str
    prompt: Prompt
    key: str | None = None


def run(sample: SampleConfig, checkpoint: Path, build: Build, runtime: Runtime, seed: int) -> None:
    """Generate every mode that the section asks for. Raises TfcliError (USAGE) if it asks for nothing."""
    loaded = load_model(checkpoint, runtime.device, sample.generation.precision)
    tasks = _tasks(sample, loaded)
    if not tasks:
        fix = "give --prompt, or set sample.heldout_prompts, captions or free above 0"
        raise TfcliError("nothing to sample", why="no prompts and no held-out documents", fix=fix, code=ExitCode.USAGE)
    if sample.generation.guidance != 1 and not loaded.sequences.manifest.stats["caption_dropped"]:
        why = "no image was trained without its text, so guidance compares with a guess"
        fix = "set sample.generation.guidance = 1, or train caption pairs with pack.condition_dropout above 0"
        runtime.report(Warn(f"{why}: {fix}"))
    (build.folder / "images").mkdir(exist_ok=True)
    records: list[Record] = []
    drawn: list[Pixels] = []
    for mode in MODES:
        chosen = [task for task in tasks if task.mode == mode]
        outputs = _generate(mode, chosen, sample, loaded, runtime, derive_seed(seed, mode))
        for index, (task, output) in enumerate(zip(chosen, outputs, strict=True)):
            stem = f"images/{mode}-{index:03d}"
            prompt, _ = _write_parts(build.folder, f"{stem}-prompt", task.prompt.pieces, loaded, seed)
            parts, pictures = _write_parts(build.folder, stem, output.pieces, loaded, seed)
            drawn.extend(pictures)
            record = Record(
                index=index, mode=mode, key=task.key, seed=seed, prompt=prompt, output=parts, ended=output.ended
            )
            records.append(record)
        runtime.report(Progress("sample", len(records), len(tasks), "documents"))
    write_jsonl(build.folder / RECORDS, [record.model_dump() for record in records])
    if drawn:
        write_atomic(build.folder / GRID, encode_png(contact_sheet(drawn, columns=8, gap=4)))
    write_atomic(build.folder / PAGE, _page(loaded.checkpoint, records).encode())
    stats = {"documents": len(records), "pictures": len(drawn)}
    build.seal({"modes": sorted({record.mode for record in records})}, stats)


def _tasks(sample: SampleConfig, loaded: LoadedModel) -> list[_Task]:
    documents = list(heldout_documents(loaded))
    pairs = [document for document in documents if is_pair(document)]
    longer = [document for document in documents if document.fixed_order and len(document.segments) > 2]
    tasks = [_Task("prompts", Prompt((TextPiece(text),), draw=True)) for text in sample.prompts]
    for document in pairs[: sample.heldout_prompts]:
        tasks.append(_Task("heldout_prompts", Prompt((TextPiece(caption_of(document)),), draw=True), document.key))
    for document in pairs[: sample.captions]:
        images = tuple(piece for piece in pieces_of(document, loaded) if isinstance(piece, ImagePiece))
        tasks.append(_Task("captions", Prompt(images, max_images=0), document.key))
    for document in longer[: sample.continued]:
        pieces = pieces_of(document, loaded)
        if isinstance(pieces[0], ImagePiece) and isinstance(
            pieces[-1], ImagePiece
        ):  # an edit: what was asked for is given
            prompt = Prompt(pieces[:-1], draw=True)
        else:
            first = next(place for place, piece in enumerate(pieces) if isinstance(piece, ImagePiece))
            prompt = Prompt(pieces[: first + 1], max_images=sample.generation.max_images)
        tasks.append(_Task("continued", prompt, document.key))
    tasks += [_Task("free", Prompt(max_images=sample.generation.max_images)) for _ in range(sample.free)]
    return tasks


def _generate(
    mode: str, tasks: list[_Task], sample: SampleConfig, loaded: LoadedModel, runtime: Runtime, seed: int
) -> list[Output]:
    config = sample.generation
    if mode == "free":
        config = config.model_copy(update={"temperature": sample.free_temperature})
    return Engine(loaded, config, seed, runtime).generate([task.prompt for task in tasks])


def _write_parts(
    folder: Path, stem: str, pieces: list[Piece] | tuple[Piece, ...], loaded: LoadedModel, seed: int
) -> tuple[list[Part], list[Pixels]]:
    """Write the pictures among `pieces` and return the record's parts and the pictures."""
    images = [piece.latent for piece in pieces if isinstance(piece, ImagePiece)]
    pictures = [loaded.draw_pictures(image[None])[0] for image in images]  # of any sizes
    parts: list[Part] = []
    number = 0
    for piece in pieces:
        if isinstance(piece, TextPiece):
            parts.append(Part(text=piece.text))
            continue
        name = f"{stem}-{number}.png"
        about = {"checkpoint": loaded.checkpoint.manifest.digest, "seed": str(seed)}
        write_atomic(folder / name, encode_png(pictures[number], about))
        parts.append(Part(image=name))
        number += 1
    return parts, pictures


def _page(checkpoint: Checkpoint, records: list[Record]) -> str:
    settings = {
        "parameters": f"{checkpoint.content.parameters / 1e6:.2f} M",
        "training steps": str(checkpoint.content.steps),
        "checkpoint": checkpoint.manifest.digest[:16],
        "model": json.dumps(checkpoint.content.model),
    }
    sections = {title: [record for record in records if record.mode == mode] for mode, title in MODES.items()}
    return render_page("tfcli samples", settings, list(checkpoint.metrics()), sections)
