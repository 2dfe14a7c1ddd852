"""Score against steps: every sampler on a trained `shapes` model, judged over held-out captions; `make bench-samplers`.

Reads the checkpoint of a run (CHECKPOINT, by default work/shapes/checkpoint) and writes work/bench/samplers.json and .png.
The first entry, ddpm in 250 steps, is the paper's sampling, timed on 16 pictures by themselves as well.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from stages.core.runtime import Runtime
from stages.diffusion.samplers import DdimSampler, DdpmSampler, DpmSolverSampler, HeunSampler, UnipcSampler
from stages.evaluate_model.documents import shapes_pairs
from stages.evaluate_model.judged import judge_drawings
from stages.evaluate_model.judging import Evaluated
from stages.generation.config import GenerationConfig
from stages.generation.loading import LoadedModel, load_model

KINDS: dict[str, Any] = {
    "ddpm": DdpmSampler,
    "ddim": DdimSampler,
    "dpm++": DpmSolverSampler,
    "unipc": UnipcSampler,
    "heun": HeunSampler,
}
CALLS = {"ddpm": (10, 25, 50, 100), "heun": (5, 9, 15, 25)}  # heun: 2 steps - 1
USUAL_CALLS = (3, 5, 8, 12, 25, 50)
COLOURS = {"ddpm": "#2563eb", "ddim": "#dc2626", "dpm++": "#059669", "unipc": "#9333ea", "heun": "#d97706"}


def measured(loaded: LoadedModel, kind: str, calls: int, guidance: float, prompts: int) -> dict[str, Any]:
    """Score (per cent) and seconds of one sampler."""
    steps = (calls + 1) // 2 if kind == "heun" else calls
    config = GenerationConfig(sampler=KINDS[kind](steps=steps), guidance=guidance, batch_size=50)
    start = time.perf_counter()
    known = shapes_pairs(loaded, "claim")
    pairs = [known[number % len(known)] for number in range(prompts)]  # again with other noise where there are fewer
    figures = judge_drawings(Evaluated(loaded, config, 0, Runtime()), pairs).figures
    seconds = time.perf_counter() - start
    found = {"sampler": kind, "steps": steps, "calls": calls, "score": 100 * figures["text_to_image"]}
    print(found | {"seconds": round(seconds, 1)}, flush=True)
    return found | {
        "seconds": seconds,
        "ceiling": 100 * figures["text_to_image_of_true_pictures"],
        "prompts": len(pairs),
    }


def plot(rows: list[dict[str, Any]], reference: float) -> Image.Image:
    """Score over calls of the model (log 2), a line for each sampler; the dashes are the reference and a point below it."""
    width, height, left, top = 720, 420, 50, 20
    picture = Image.new("RGB", (width, height), "#fafafa")
    pen = ImageDraw.Draw(picture)
    calls = sorted({row["calls"] for row in rows})

    def at(call: float, score: float) -> tuple[float, float]:
        from math import log2

        across = log2(call / calls[0]) / log2(calls[-1] / calls[0])
        return left + across * (width - left - 90), top + (100 - score) / 100 * (height - top - 40)

    for score in range(0, 101, 20):
        pen.line([at(calls[0], score), at(calls[-1], score)], fill="#dddddd")
        pen.text((8, at(calls[0], score)[1] - 6), f"{score} %", fill="#444444")
    for call in calls:
        pen.text((at(call, 0)[0] - 6, height - 32), str(call), fill="#444444")
    pen.text((width // 2 - 60, height - 16), "calls of the model", fill="#444444")
    for score in (reference, reference - 1):
        (x, y), (end, _) = at(calls[0], score), at(calls[-1], score)
        while x < end:
            pen.line([(x, y), (x + 5, y)], fill="#444444")
            x += 10
    for number, (kind, colour) in enumerate(COLOURS.items()):
        line = [
            at(row["calls"], row["score"]) for row in sorted(rows, key=lambda r: r["calls"]) if row["sampler"] == kind
        ]
        pen.line(line, fill=colour, width=2)
        for x, y in line:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        pen.text((width - 60, top + 16 * number), kind, fill=colour)
    return picture


def main() -> None:
    """Measure all, print the fewest calls within a point of the paper's sampling, write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=Path("work/shapes/checkpoint"))
    parser.add_argument("--out", type=Path, default=Path("work/bench"))
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--guidance", type=float, default=2.0)
    options = parser.parse_args()
    loaded = load_model(options.checkpoint)
    sixteen = measured(loaded, "ddpm", 250, options.guidance, 16)
    reference = measured(loaded, "ddpm", 250, options.guidance, options.prompts)
    rows = [reference]
    for kind in KINDS:
        for calls in CALLS.get(kind, USUAL_CALLS):
            rows.append(measured(loaded, kind, calls, options.guidance, options.prompts))
    fewest: dict[str, int | None] = {}
    for kind in KINDS:
        near = [row["calls"] for row in rows if row["sampler"] == kind and row["score"] >= reference["score"] - 1]
        fewest[kind] = min(near, default=None)
    print({"fewest calls within a point": fewest})
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {"sixteen": sixteen, "reference": reference, "fewest_calls_within_a_point": fewest, "rows": rows}
    facts["guidance"], facts["checkpoint"] = options.guidance, loaded.checkpoint.manifest.digest
    (options.out / "samplers.json").write_text(json.dumps(facts, indent=1) + "\n")
    plot(rows, reference["score"]).save(options.out / "samplers.png")


if __name__ == "__main__":
    main()
