"""`make ablations`: variants of the model and its objective on `shapes`, some seeds each, at equal model FLOPs; docs/results.md.

Every variant is `recipes/shapes.toml` with a few settings changed and so many steps that the floating-point operations of a
training (stages/train_model/flops.py) are those of the first variant. Judged over held-out captions, as `tfcli eval` does, and by
the error of the noise at given signal-to-noise ratios (tests/bench/levels.py), which moves before the scores do.
Needs work/shapes up to `tfcli pack`. Writes work/bench/ablations.jsonl, a line for each training, and goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from stages.artifacts.checkpoint import Checkpoint
from stages.core.runtime import Runtime
from stages.diffusion.samplers import DdimSampler
from stages.evaluate_model.documents import shapes_pairs
from stages.evaluate_model.judged import judge_drawings
from stages.evaluate_model.judged_text import judge_texts
from stages.evaluate_model.judging import Evaluated
from stages.generation.config import GenerationConfig
from stages.generation.loading import load_model
from stages.pipeline import BY_NAME, Workspace
from stages.recipe import Recipe, load_recipe
from stages.train_model.data import Data
from stages.train_model.distributed.ranks import Ranks
from stages.train_model.flops import Work, model_flops
from tests.bench.levels import LEVELS, noise_errors

NOISE = (
    'diffusion.schedule={kind="cosine"}',
    'diffusion.target={kind="noise"}',
    'diffusion.times={kind="uniform"}',
    "diffusion.stratified_times=false",
    "diffusion.image_weight=5",
    "diffusion.noise_draws=1",
    "diffusion.noise_limit=500",
    "diffusion.context_images=noised",
)  # the paper's
MIN_SNR = (
    *NOISE,
    'diffusion.target={kind="velocity"}',
    'diffusion.weighting={kind="min-snr", gamma=0.3}',
    "diffusion.image_weight=50",
)
VELOCITY = (
    'diffusion.schedule={kind="cosine"}',
    'diffusion.target={kind="velocity"}',
    'diffusion.times={kind="uniform"}',
)
VARIANTS: dict[str, tuple[str, ...]] = {
    "the recipe": (),
    "the paper's objective": NOISE,
    "velocity, min-SNR 0.3, lambda 50 (the recipe before)": MIN_SNR,
    "velocity, unweighted": VELOCITY,
    "times at mean 0": ('diffusion.times={kind="logit-normal", mean=0.0}',),
    "times at mean 1.4": ('diffusion.times={kind="logit-normal", mean=1.4}',),
    "1 noise draw": ("diffusion.noise_draws=1",),
    "8 noise draws": ("diffusion.noise_draws=8",),
    "times not stratified": ("diffusion.stratified_times=false",),
    "lambda 5": ("diffusion.image_weight=5",),
    "lambda 60": ("diffusion.image_weight=60",),
    "2-D rotary positions": ("model.image_positions=grid",),
    "no learned positions of patches": ('model.codec={kind="linear"}',),
    "2-D rotary positions alone": ('model.codec={kind="linear"}', "model.image_positions=grid"),
    "query-key norm": ("model.qk_norm=true",),
    "8 layers of 128": ("model.layers=8", "model.width=128", "model.heads=4"),
    "steps of 4 rows": ("train.batch_rows=4",),
    "steps of 8 rows": ("train.batch_rows=8",),
    "AdamW": ("train.optimizer=adamw",),
    "causal in images": ("model.image_attention=causal",),
    "U-Net": ('model.codec={kind="unet", channels=48, widest=96, blocks=1}',),
}
SCORES = (
    "text_to_image",
    "text_to_image_placed",
    "text_to_image_related",
    "text_to_image_open",
    "exactly_once",
    "image_to_text",
)
ERRORS = tuple(f"error_{snr:g}" for snr in LEVELS)
FIGURES = (*SCORES, *ERRORS, "heldout_text_loss")


def recipe_of(settings: Iterable[str], steps: int, seed: int) -> Recipe:
    kept = (f"seed={seed}", f"train.steps={steps}", "train.preview_every=0", f"train.eval_every={steps}")
    return load_recipe("shapes", (*settings, *kept))


def flops(recipe: Recipe, sequences: Path) -> int:
    """Of a step, the mean of the first eight."""
    data = Data(sequences, recipe.diffusion, recipe.model)
    batches = [
        batch
        for step in range(8)
        for batch in data.batches(recipe.train, data.rows(recipe.train, step, 0), step, 0, Ranks())
    ]
    return model_flops(recipe.model, data.dims, Work.of(batches)) // 8


def trained(work: Path, recipe: Recipe, prompts: int) -> dict[str, Any]:
    """Train into a folder of its own, which is thrown away, and judge."""
    with tempfile.TemporaryDirectory(dir=work.parent) as folder:
        for kind in ("autoencoder", "latents", "tokens", "sequences"):
            (Path(folder) / kind).symlink_to((work / kind).resolve())
        space = Workspace(recipe, Path(folder))
        started = time.perf_counter()
        space.run(BY_NAME["train"], Runtime(device="cpu"))
        seconds = time.perf_counter() - started
        checkpoint = space.target("checkpoint")
        stats = Checkpoint.open(checkpoint).manifest.stats
        loaded = load_model(checkpoint)
        pairs = shapes_pairs(loaded, "claim")[:prompts]
        config = GenerationConfig(sampler=DdimSampler(steps=25), guidance=2.0, batch_size=50)
        model = Evaluated(loaded, config, 0, Runtime())
        figures = judge_drawings(model, pairs).figures | judge_texts(model, pairs).figures
        errors = noise_errors(checkpoint, work / "sequences")
    by_level = dict(zip(ERRORS, errors.values(), strict=True))
    return {"seconds": seconds, "parameters": stats["parameters"], **stats["losses"], **figures, **by_level}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: mean and range over the seeds."""
    names = [name.replace("_", " ").replace("error ", "SNR ") for name in FIGURES]
    lines = [f"| variant | parameters | steps | seeds | {' | '.join(names)} |", "|---" * (4 + len(names)) + "|"]
    for name in VARIANTS:
        found = [row for row in rows if row["variant"] == name]
        if found:
            size = f"{found[0]['parameters'] / 1e6:.2f} M"
            cells = [_cell([row[key] for row in found], share=key in SCORES) for key in FIGURES]
            lines.append(f"| {name} | {size} | {found[0]['steps']:,} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float], *, share: bool) -> str:
    """Mean and range: in per cent, or with three digits."""
    shown = [
        f"{100 * value:.0f}" if share else f"{value:.3f}"
        for value in (statistics.mean(values), min(values), max(values))
    ]
    return f"{shown[0]}{' %' if share else ''}" + (f" ({shown[1]} to {shown[2]})" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/shapes"))
    parser.add_argument("--steps", type=int, default=1000, help="of the first variant")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    target = Path("work/bench/ablations.jsonl")
    target.parent.mkdir(parents=True, exist_ok=True)
    sequences = options.work / "sequences"
    wanted = flops(recipe_of((), options.steps, 0), sequences) * options.steps
    for seed in options.seeds:
        for name in options.only:
            settings = VARIANTS[name]
            rows = [json.loads(line) for line in target.read_text().splitlines()] if target.exists() else []
            if any((row["variant"], row["seed"], row["base_steps"]) == (name, seed, options.steps) for row in rows):
                continue
            steps = round(wanted / flops(recipe_of(settings, options.steps, 0), sequences))
            found = trained(options.work, recipe_of(settings, steps, seed), options.prompts)
            labels = {"variant": name, "seed": seed, "steps": steps, "base_steps": options.steps}
            with target.open("a") as file:
                print(json.dumps(labels | found), file=file)
            print(labels, {key: round(found[key], 4) for key in FIGURES}, f"{found['seconds']:.0f} s", flush=True)
    print(table([json.loads(line) for line in target.read_text().splitlines()]))


if __name__ == "__main__":
    main()
