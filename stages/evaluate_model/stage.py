"""Judge a checkpoint on held-out documents: Checkpoint + held-out Sequences -> Scores.

Every recipe gets the held-out losses. The `shapes` world also gets its judge: the truth of its pictures is known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.artifacts.folder import Build
from stages.artifacts.scores import JUDGED, MISTAKES, SCORES
from stages.coders.pixels import contact_sheet, encode_png
from stages.core.events import Note
from stages.core.files import write_atomic, write_json, write_jsonl
from stages.core.runtime import Runtime
from stages.evaluate_model.config import EvalConfig
from stages.evaluate_model.judged import (
    Judged,
    judge_drawings,
    judge_edits,
    judge_free,
    judge_texts,
    shapes_edits,
    shapes_pairs,
)
from stages.generation.loading import load_model


def run(eval: EvalConfig, checkpoint: Path, build: Build, runtime: Runtime, seed: int) -> None:
    """Measure and seal. stats hold the figures that `tfcli run` prints."""
    loaded = load_model(checkpoint, runtime.device, eval.generation.precision)
    losses = loaded.checkpoint.manifest.stats["losses"]
    figures: dict[str, Any] = {name: value for name, value in losses.items() if name.startswith("heldout_")}
    judged: list[Judged] = []
    pairs = shapes_pairs(loaded, "scene")
    if pairs:
        for part in (
            judge_drawings(loaded, pairs[: eval.text_to_image], eval.generation, seed, runtime),
            judge_texts(loaded, pairs[: eval.image_to_text], eval.generation, seed, runtime),
            judge_free(loaded, eval, seed, runtime),
        ):
            figures.update(part.figures)
            judged.extend(part.judged)
        harder = shapes_pairs(loaded, "thing")[: min(eval.text_to_image, eval.image_to_text)]
        if harder:
            for part in (
                judge_drawings(loaded, harder, eval.generation, seed, runtime),
                judge_texts(loaded, harder, eval.generation, seed, runtime),
            ):
                figures.update({f"new_things_{name}": value for name, value in part.figures.items()})
    edits = shapes_edits(loaded)[: eval.edits]
    if edits:
        part = judge_edits(loaded, edits, eval.generation, seed, runtime)
        figures.update(part.figures)
        judged.extend(part.judged)
    if not judged:
        runtime.report(Note("no judge for this source: the scores are the held-out losses"))
    write_json(build.folder / SCORES, figures)
    write_jsonl(build.folder / JUDGED, [item.row() for item in judged])
    mistakes = [item.picture for item in judged if not item.right and item.picture is not None]
    if mistakes:
        sheet = contact_sheet(mistakes[:64], columns=8, gap=4)
        write_atomic(build.folder / MISTAKES, encode_png(sheet))
    build.seal({"judge": "shapes" if pairs or edits else None}, figures)
