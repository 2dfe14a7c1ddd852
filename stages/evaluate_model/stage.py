"""Judge a checkpoint on held-out documents: Checkpoint + held-out Sequences -> Scores.

Every recipe gets the held-out losses. The `shapes` world also gets its judge: the truth of its pictures is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from stages.artifacts.context import StageContext
from stages.artifacts.scores import JUDGED, MISTAKES, SCORES
from stages.coders.pixels import encode_png
from stages.coders.sheets import labelled_sheet
from stages.core.events import Note
from stages.core.files import write_atomic, write_json, write_jsonl
from stages.evaluate_model.config import EvalConfig
from stages.evaluate_model.documents import (
    most_things,
    shapes_edits,
    shapes_pairs,
    shapes_stories,
    with_relation,
    with_thing_at_right,
)
from stages.evaluate_model.judged import judge_drawings, judge_edits, judge_inpainted, judge_unconditional
from stages.evaluate_model.judged_stories import judge_continued, judge_free, judge_swapped, judge_turned
from stages.evaluate_model.judged_text import judge_relations, judge_texts
from stages.evaluate_model.judging import Evaluated, Judged, TaskScores
from stages.generation.loading import load_model
from stages.generation.sharing import Generators, generator_count

_MISTAKES = 60  # on the sheet
_LEAST = 192  # pixels of the shorter side of a picture on it
_MOST_LINES = 30  # of a label on it: the longest texts are whole


def run(eval: EvalConfig, checkpoint: Path, context: StageContext) -> None:
    """Measure and seal. stats hold the figures that `tfcli run` prints."""
    build, runtime, seed = context.build, context.runtime, context.seed
    loaded = load_model(checkpoint, runtime.device, eval.generation.precision)
    losses = loaded.checkpoint.manifest.stats["losses"]
    figures: dict[str, Any] = {name: value for name, value in losses.items() if name.startswith("heldout_")}
    judged: list[Judged] = []
    count = generator_count(loaded, eval.generation, eval.text_to_image)  # of the largest task
    with Generators(loaded, eval.generation.precision, runtime, count) as generators:
        model = Evaluated(loaded, eval.generation, seed, runtime, generators)
        for part, prefix in _parts(eval, model):
            figures.update({f"{prefix}{name}": value for name, value in part.figures.items()})
            judged.extend([] if prefix else part.judged)
    if not judged:
        runtime.report(Note("no judge for this source: the scores are the held-out losses"))
    write_json(build.folder / SCORES, figures)
    write_jsonl(build.folder / JUDGED, [item.row() for item in judged])
    mistakes = mistakes_of(judged)
    if mistakes:
        pictures = [picture for one in mistakes if (picture := one.picture) is not None]
        labels = [one.label() for one in mistakes]
        sheet = labelled_sheet(pictures, labels, columns=6, least=_LEAST, most_lines=_MOST_LINES)
        write_atomic(build.folder / MISTAKES, encode_png(sheet))
    files = [SCORES, JUDGED, *([MISTAKES] if mistakes else [])]
    build.seal({"judge": "shapes" if judged else None}, figures, files=files)


def mistakes_of(judged: list[Judged]) -> list[Judged]:
    """Up to _MISTAKES that have a picture: the first of each mode, the second of each, and so on; then together by mode."""
    by_mode: dict[str, list[Judged]] = {}
    for one in judged:
        if not one.right and one.picture is not None:
            by_mode.setdefault(one.mode, []).append(one)
    rounds = zip_longest(*by_mode.values())
    chosen = [one for each in rounds for one in each if one is not None][:_MISTAKES]
    return sorted(chosen, key=lambda one: list(by_mode).index(one.mode))


def _parts(eval: EvalConfig, model: Evaluated) -> Iterator[tuple[TaskScores, str]]:
    """What can be judged of this source, and what its figures' names begin with."""
    loaded, generation = model.loaded, model.generation
    if generation.height is None:  # the judge takes square pictures: of several sizes the model might choose another
        side = loaded.checkpoint.content.picture_size
        generation = generation.model_copy(update={"height": side, "width": side})
    model = replace(model, generation=generation)
    claims, things, alike = (shapes_pairs(loaded, new) for new in ("claim", "thing", None))
    for pairs, prefix in ((claims, ""), (things, "new_things_"), (alike, "alike_")):
        if drawn := pairs[: eval.text_to_image]:
            yield judge_drawings(model, drawn), prefix
        if described := pairs[: eval.image_to_text]:
            yield judge_texts(model, described), prefix
        if related := with_relation(pairs)[: eval.image_to_text]:
            yield judge_relations(model, related), prefix
    pairs = [*claims, *alike]
    if pairs and eval.unconditional:
        yield judge_unconditional(model, eval.unconditional, most_things(pairs)), ""
    if pairs and eval.free:
        freely = generation.model_copy(update={"temperature": eval.free_temperature})
        yield judge_free(replace(model, generation=freely), eval.free), ""
    if holed := with_thing_at_right(pairs)[: eval.inpainted]:
        yield judge_inpainted(model, holed), ""
    if stories := shapes_stories(loaded)[: eval.stories]:
        yield judge_continued(model, stories), ""
        yield judge_turned(model, stories), ""
        yield judge_swapped(model, stories), ""
    if edits := shapes_edits(loaded)[: eval.edits]:
        yield judge_edits(model, edits), ""
