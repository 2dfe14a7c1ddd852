"""Draw and write with a finished checkpoint: Checkpoint + prompts -> Samples (PNGs, records, grid, page)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.artifacts.checkpoint import Checkpoint
from stages.artifacts.context import StageContext
from stages.artifacts.samples import GRID, IMAGES, PAGE, RECORDS, Record
from stages.coders.pixels import Pixels, encode_png
from stages.coders.sheets import contact_sheet
from stages.core.config import result_config
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note, Progress, Warn
from stages.core.files import write_atomic, write_jsonl
from stages.core.runtime import Runtime
from stages.core.seeds import derive_seed
from stages.generation.config import GenerationConfig
from stages.generation.engine import Engine
from stages.generation.loading import LoadedModel, load_model
from stages.sample_model.config import SampleConfig
from stages.sample_model.page import render_page
from stages.sample_model.pictures import warn_of_quality
from stages.sample_model.tasks import MODES, Task, make_tasks
from stages.sample_model.writing import RunInfo, Writer


def run(sample: SampleConfig, checkpoint: Path, context: StageContext) -> None:
    """Generate every mode that the section asks for. Raises TfcliError (USAGE) if it asks for nothing or for what the model
    cannot take in."""
    build, runtime, seed = context.build, context.runtime, context.seed
    loaded = load_model(checkpoint, runtime.device, sample.generation.precision)
    sample = _within(sample, loaded, runtime)
    tasks = make_tasks(sample, loaded)
    runtime.inputs_unchanged()  # the given pictures are read
    if not tasks:
        fix = "give a prompt, or set sample.heldout_prompts, captions or free above 0"
        raise TfcliError("nothing to sample", why="no prompts and no held-out documents", fix=fix, code=ExitCode.USAGE)
    own = (task.prompt for task in tasks if task.mode == "prompts" and task.take == 0)
    warn_of_quality(own, loaded, runtime)
    for reading in dict.fromkeys(task.prompt.edit.reading for task in tasks if task.prompt.edit is not None):
        if reading:
            runtime.report(Note(reading))
    _warn_of_guidance(sample.generation, loaded, runtime)
    _warn_of_sizes(tasks, sample.generation, loaded, runtime)
    (build.folder / IMAGES).mkdir(exist_ok=True)
    records: list[Record] = []
    drawn: list[Pixels] = []
    for mode in MODES:
        chosen = [task for task in tasks if task.mode == mode]
        config = _config(mode, sample)
        run = RunInfo(seed, loaded.checkpoint.manifest.digest, result_config(config), sample.gif)
        writer = Writer(build.folder, chosen, loaded, run, runtime, report_parts=mode == "prompts")
        engine = Engine(loaded, config, derive_seed(seed, mode), runtime)
        for event in engine.stream((task.prompt for task in chosen), (task.number for task in chosen), steps=True):
            writer.take(event)
        records.extend(writer.records())
        drawn.extend(writer.pictures[key] for key in sorted(writer.pictures))
        runtime.report(Progress("sample", len(records), len(tasks), "documents"))
    write_jsonl(build.folder / RECORDS, [record.model_dump() for record in records])
    if drawn:
        write_atomic(build.folder / GRID, encode_png(contact_sheet(drawn, columns=8, gap=4)))
    write_atomic(build.folder / PAGE, _page(loaded.checkpoint, records, seed, sample.generation).encode())
    stats = {"documents": len(records), "pictures": len(drawn)}
    files = [RECORDS, PAGE, *([GRID] if drawn else []), *(name for record in records for name in record.files())]
    modes = sorted({record.mode for record in records})
    build.seal({"modes": modes}, stats, volatile=(PAGE,), files=files)  # the page shows what the records hold


def _within(sample: SampleConfig, loaded: LoadedModel, runtime: Runtime) -> SampleConfig:
    most, asked = loaded.diffusion.num_steps, sample.generation.sampler.steps
    taken = sample.generation.within(most)
    if taken is sample.generation:
        return sample
    runtime.report(Warn(f"{most:,} steps are taken, not {asked:,}: the model was trained on so many noise levels"))
    return sample.model_copy(update={"generation": taken})


def _config(mode: str, sample: SampleConfig) -> GenerationConfig:
    if mode == "free":
        return sample.generation.model_copy(update={"temperature": sample.free_temperature})
    return sample.generation


def _warn_of_guidance(config: GenerationConfig, loaded: LoadedModel, runtime: Runtime) -> None:
    if config.guidance != 1 and not loaded.sequences.manifest.stats["caption_dropped"]:
        why = "no image was trained without its text, so guidance compares with a guess"
        fix = "set sample.generation.guidance = 1, or train caption pairs with pack.condition_dropout above 0"
        runtime.report(Warn(f"{why}: {fix}"))


def _warn_of_sizes(tasks: list[Task], config: GenerationConfig, loaded: LoadedModel, runtime: Runtime) -> None:
    """Tell of sizes that no picture of the training had."""
    content = loaded.latents.content
    seen = {(grid.height, grid.width) for grid in content.grids}
    asked = {task.prompt.size for task in tasks if task.prompt.size is not None}
    if config.height is not None and config.width is not None:
        asked.add(loaded.latent_size(config.height, config.width))
    cell = content.downsampling
    known = ", ".join(f"{width * cell}x{height * cell}" for height, width in sorted(seen))
    for height, width in sorted(asked - seen):
        runtime.report(Warn(f"no picture of {width * cell}x{height * cell} was seen in training, only {known}"))


def _page(checkpoint: Checkpoint, records: list[Record], seed: int, config: GenerationConfig) -> str:
    content = checkpoint.content
    sampler: dict[str, Any] = result_config(config.sampler)
    summary = (
        f"{content.parameters / 1e6:.2f} M parameters, {content.steps:,} training steps; sampler {sampler['kind']}, "
        f"{sampler.get('steps', '?')} steps, guidance {config.guidance:g}, seed {seed}."
    )
    settings = {
        "checkpoint": checkpoint.manifest.digest,
        "model": json.dumps(content.model),
        "sampling": json.dumps(result_config(config)),
    }
    sections = {title: [record for record in records if record.mode == mode] for mode, title in MODES.items()}
    return render_page("tfcli samples", summary, settings, list(checkpoint.metrics()), sections)
