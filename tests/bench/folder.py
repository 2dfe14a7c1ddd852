"""`make bench-folder`: recipes/folder.toml with the settings of before and with its own, on 500 pictures, for the same time.

Makes the pictures itself (tests/bench/photographs.py). For each seed, which is that of the autoencoder, the packing and the
training, both sides share the autoencoder and the latents; each tokenizes, packs and trains by its own settings for as many steps
as fit the seconds, by its speed over some steps on trial. Both are measured alike: the squared error of the noise over held-out
pictures at equal signal-to-noise ratios, which is SNR times that of the picture (tests/bench/levels.py).
Writes work/bench/folder.jsonl, a line for each training, and continues where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from stages.artifacts.checkpoint import TIMING, Checkpoint
from stages.core.events import Note
from stages.core.files import read_jsonl
from stages.core.runtime import Runtime
from stages.pipeline import BY_NAME, Workspace
from stages.recipe import Recipe, load_recipe
from tests.bench.levels import LEVELS, noise_errors
from tests.bench.photographs import write_photographs

# recipes/folder.toml as it was before it took over what is learnt on shapes.
BEFORE = (
    "tokenize.tokenizer.vocab_size=2000",
    "pack.row_length=512",
    'model.codec={kind="linear", grid_positions=false}',
    "model.rope_base=10000.0",
    'diffusion.schedule={kind="cosine"}',
    'diffusion.target={kind="noise"}',
    'diffusion.times={kind="uniform"}',
    'diffusion.weighting={kind="uniform"}',
    "diffusion.image_weight=5.0",
    "diffusion.noise_limit=500",
    "diffusion.limited_images=first",
    "diffusion.context_images=noised",
    "diffusion.noise_draws=1",
    "diffusion.stratified_times=false",
    "train.batch_rows=4",
    "train.optimizer=adamw",
    "train.learning_rate=1e-3",
    "train.final_learning_rate=1.5e-5",
    "train.weight_decay=0.1",
)
SIDES = {"before": BEFORE, "now": ()}
_TRIAL_STEPS = 40
_DRAWS = 8  # of the noise of each held-out picture at each level


def recipe_of(pictures: Path, settings: tuple[str, ...], seed: int) -> Recipe:
    return load_recipe("folder", (f"source.path={pictures}", f"seed={seed}", "pack.heldout_fraction=0.1", *settings))


def trained(space: Path, recipe: Recipe, steps: int) -> tuple[Path, float]:
    """Train by the recipe for so many steps; the checkpoint and the seconds that it took, without start and measurements."""
    shutil.rmtree(space / "checkpoint", ignore_errors=True)
    changes = {"steps": steps, "eval_every": steps, "log_every": max(1, steps // 20), "save_every": steps}
    changes |= {"warmup_steps": min(recipe.train.warmup_steps, steps // 5)}
    train = recipe.train.model_copy(update=changes)
    workspace = Workspace(recipe.model_copy(update={"train": train}), space)
    workspace.run(BY_NAME["train"], Runtime(device="cpu"), force=True)
    rows = list(read_jsonl(space / "checkpoint" / TIMING))
    return space / "checkpoint", sum(row["seconds"] for row in rows)


def side(work: Path, name: str, recipe: Recipe, seconds: float) -> dict[str, Any]:
    """One side of one seed. work: holds the autoencoder and the latents."""
    space = work / name
    shutil.rmtree(space, ignore_errors=True)
    space.mkdir()
    for kind in ("autoencoder", "latents"):
        (space / kind).symlink_to((work / kind).resolve())
    notes: list[str] = []
    runtime = Runtime(device="cpu", report=lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    for stage in ("tokenize", "pack"):
        Workspace(recipe, space).run(BY_NAME[stage], runtime)
    print(f"  {name}: {'; '.join(notes)}", flush=True)
    _, taken = trained(space, recipe, _TRIAL_STEPS)
    steps = max(2, int(seconds / (taken / _TRIAL_STEPS)))
    checkpoint, took = trained(space, recipe, steps)
    errors = noise_errors(checkpoint, space / "sequences", rows=10**6, draws=_DRAWS)
    content = Checkpoint.open(checkpoint).content
    sizes = {
        "row_length": content.row_length,
        "vocab_size": content.vocab_size,
        "rope_base": content.model["rope_base"],
    }
    return {"steps": steps, "took": took, **sizes, **{f"error_{snr:g}": error for snr, error in errors.items()}}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean and range over the seeds, the mean over the levels first."""
    keys = [f"error_{snr:g}" for snr in LEVELS]
    lines = [f"| settings | seeds | steps | seconds | mean | {' | '.join(f'SNR {snr:g}' for snr in LEVELS)} |"]
    lines.append("|---" * (5 + len(keys)) + "|")
    for name in SIDES:
        found = [row for row in rows if row["side"] == name]
        if found:
            means = [statistics.mean(row[key] for key in keys) for row in found]
            cells = [_cell(values) for values in (means, *([row[key] for row in found] for key in keys))]
            steps, took = ([row[key] for row in found] for key in ("steps", "took"))
            spans = f"{min(steps):,} to {max(steps):,} | {min(took):.0f} to {max(took):.0f}"
            lines.append(f"| {name} | {len(found)} | {spans} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


def main() -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/bench/folder"))
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument(
        "--seconds", type=float, default=300, help="of each training, start and measurements not counted"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--set", action="append", default=[], help="a setting of both sides, such as train.precision=bf16"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pictures = options.work / f"pictures-{options.pictures}"
    if not pictures.exists():
        write_photographs(pictures, options.pictures)
    target = options.work.with_suffix(".jsonl")
    asked = {"pictures": options.pictures, "budget": options.seconds, "set": options.set}
    for seed in options.seeds:
        work = options.work / f"seed-{seed}"
        for name, settings in SIDES.items():
            labels = {"side": name, "seed": seed, **asked}
            if any(labels.items() <= row.items() for row in _rows(target)):
                continue
            recipe = recipe_of(pictures, (*settings, *options.set), seed)
            for stage in ("vae", "encode"):
                Workspace(recipe, work).run(BY_NAME[stage], Runtime(device="cpu"), replace=True)
            started = time.perf_counter()
            found = side(work, name, recipe, options.seconds)
            with target.open("a") as file:
                print(json.dumps(labels | found), file=file)
            print(f"  seed {seed}, {name}: {found} in {time.perf_counter() - started:.0f} s", flush=True)
    print(table([row for row in _rows(target) if asked.items() <= row.items() and row["seed"] in options.seeds]))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
