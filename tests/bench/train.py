"""`make bench-train`: training steps against transfusion-pytorch, and against what the processor can do.

Pairs: some steps of the peer (in a process of its own, which waits in between) and as many of ours, in turn; ratios are medians
of pairs. A step is the whole of it: a fresh batch with its noise, text and image loss, backward, clipping, AdamW (fused, both).
Latents 8 x 8 x 8 in patches of one pixel; what is counted as content is text and patches, the same on both sides.
python -m tests.bench.train [equal width long memory utilisation] measures those parts only; writes work/bench/train.json.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from stages.artifacts.checkpoint import TIMING
from stages.artifacts.sequences import RowTable
from stages.core.device import autocast
from stages.core.files import read_jsonl
from stages.core.runtime import Runtime
from stages.diffusion.process import Diffusion
from stages.diffusion.schedules import CosineSchedule
from stages.diffusion.weighting import Uniform
from stages.model.config import ModelConfig
from stages.model.transformer import ModelDims, Transfusion
from stages.pipeline import BY_NAME, Workspace
from stages.recipe import load_recipe
from stages.train_model.batches import BatchMaker
from stages.train_model.config import TrainConfig
from stages.train_model.objective import loss_sums
from stages.train_model.optimizer import build_optimizers
from tests.bench.figures import Figure, at_least, at_most, once, pairs, run
from tests.bench.peer import PeerProcess

CHANNELS, VOCABULARY = 8, 256
PAD, BOS, EOS, BOI, EOI = range(5)
# Text tokens before each image of each sample. Ragged: lognormal around 60, sigma 1.2.
_DRAWN = np.exp(np.random.default_rng(0).normal(np.log(60), 1.2, 12)).round()
UNIFORM = [[20]] * 12
RAGGED = [[int(length)] for length in np.clip(_DRAWN, 11, 309)]
LONG = [[16] * 15]  # one document of 15 images of 256 patches: 4,110 elements with its marks
EQUAL = ModelConfig(width=384, layers=11, heads=6, ffn_width=1024)  # 19.9 M parameters, as the peer's 256 x 8
SAME_WIDTH = ModelConfig(width=256, layers=8, heads=4)
PEER = {"dim": 256, "depth": 8, "heads": 4}
STEPS = 3


class Ours:
    """A model and one row of documents, text and image in turn, trained as the train stage does."""

    def __init__(self, config: ModelConfig, lengths: list[list[int]], side: int, precision: str) -> None:
        torch.manual_seed(0)
        self.precision = precision
        self.model = Transfusion(config, ModelDims(VOCABULARY, CHANNELS, 1))
        self.model.initialise(torch.Generator().manual_seed(0))
        self.parameters = sum(weight.numel() for weight in self.model.parameters())
        self.optimizers = build_optimizers(self.model, TrainConfig())
        self.maker = maker_of(lengths, side)
        self.taken = 0

    def step(self) -> None:
        batch = self.maker.make(np.array([0]), [(self.taken,)], 0)
        with autocast(torch.device("cpu"), self.precision):
            sums = loss_sums(self.model, batch)
            loss = sums.text / len(batch.targets) + 5 * sums.weighted_image / batch.num_images
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.taken += 1

    def steps(self, count: int) -> float:
        """Seconds."""
        return once(lambda: [self.step() for _ in range(count)])


def maker_of(lengths: list[list[int]], side: int) -> BatchMaker:
    """Batches of one row that holds all of the documents."""
    rng = np.random.default_rng(0)
    ids: list[int] = []
    documents: list[tuple[int, ...]] = []
    images: list[tuple[int, ...]] = []
    for number, document in enumerate(lengths):
        start = len(ids)
        ids.append(BOS)
        for length in document:
            ids += [*rng.integers(5, VOCABULARY, length).tolist(), BOI]
            images.append((0, len(ids), side**2, len(images), 0, number))
            ids += [*[PAD] * side**2, EOI]
        ids.append(EOS)
        documents.append((0, start, len(ids) - start, number, 0, 0))
    spans = np.array([0, len(documents)]), np.array([0, len(images)])
    table = RowTable(np.array([ids], dtype=np.int32), np.array(documents), np.array(images), *spans)
    latents = np.zeros((len(images), 2, CHANNELS, side, side), np.float32)
    latents[:, 0] = rng.normal(size=latents[:, 0].shape)
    still = SimpleNamespace(channel_mean=[0.0] * CHANNELS, channel_std=[1.0] * CHANNELS)
    content: Any = SimpleNamespace(pad=PAD, bos=BOS, eos=EOS, boi=BOI, eoi=EOI, **vars(still))
    reader: Any = SimpleNamespace(read=lambda rows: latents[np.asarray(rows)])
    return BatchMaker(
        table,
        content,
        (reader,),
        Diffusion(CosineSchedule()),
        noise_limit=1000,
        weighting=Uniform(),
        bidirectional=True,
    )


def content(lengths: list[list[int]], side: int) -> int:
    """Text tokens and patches of a step."""
    return sum(length + side**2 for document in lengths for length in document)


def compare(
    peer: PeerProcess, config: ModelConfig, lengths: list[list[int]], side: int, precision: str, count: int, name: str
) -> tuple[float, list[Figure]]:
    """The peer's time over ours, and both speeds. count: of pairs."""
    ours = Ours(config, lengths, side, precision)
    steps = STEPS if count > 1 else 1
    built = peer.ask(do="build", lengths=lengths, side=side, precision=precision, **PEER)
    a, b, ratio = pairs(lambda: peer.ask(do="steps", count=steps)["seconds"], lambda: ours.steps(steps), count)
    tokens = steps * content(lengths, side)
    sizes = f"{built['parameters'] / 1e6:.2f} M against {ours.parameters / 1e6:.2f} M"
    return ratio, [Figure(f"  {name}: peer, ours", tokens / a, f"tokens/s, {tokens / b:,.0f}; {sizes}")]


def equal(peer: PeerProcess) -> list[Figure]:
    """At equal parameters and equal number type."""
    figures = []
    for work, lengths, precision, bound in (
        ("uniform", UNIFORM, "fp32", 1.3),
        ("uniform", UNIFORM, "bf16", 1.6),
        ("ragged", RAGGED, "fp32", 3.0),
        ("ragged", RAGGED, "bf16", 3.5),
    ):
        ratio, more = compare(peer, EQUAL, lengths, 8, precision, 7, work)
        figures += [at_least(f"{work}, {precision}, equal parameters", ratio, bound), *more]
    return figures


def width(peer: PeerProcess) -> list[Figure]:
    """At equal width and depth, where ours has fewer parameters."""
    figures = []
    for work, lengths in (("uniform", UNIFORM), ("ragged", RAGGED)):
        for precision in ("fp32", "bf16"):
            ratio, more = compare(peer, SAME_WIDTH, lengths, 8, precision, 5, work)
            figures += [Figure(f"{work}, {precision}, equal width", ratio, "x"), *more]
    return figures


def long(peer: PeerProcess) -> list[Figure]:
    """One document of 15 images of 256 patches, 4,110 elements."""
    ratio, more = compare(peer, EQUAL, LONG, 16, "fp32", 1, "long")
    return [Figure("one document of 4,110 elements, fp32, equal parameters", ratio, "x"), *more]


def memory(_peer: PeerProcess) -> list[Figure]:
    """Peak of a process of its own that takes six ragged steps in fp32, libraries and all."""
    with PeerProcess("peer_train.py") as fresh:
        fresh.ask(do="build", lengths=RAGGED, side=8, precision="fp32", **PEER)
        theirs = fresh.ask(do="steps", count=6)["peak_bytes"]
    code = (
        "from stages.core.memory import peak_bytes; from tests.bench.train import EQUAL, RAGGED, Ours;"
        "Ours(EQUAL, RAGGED, 8, 'fp32').steps(6); print(peak_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    ours = int(done.stdout)
    return [
        at_most("peak memory, ragged, fp32, ours / peer", ours / theirs, 1 / 3, "x"),
        Figure("  peer, ours", theirs / 2**20, f"MiB, {ours / 2**20:,.0f} MiB"),
    ]


def utilisation(_peer: PeerProcess) -> list[Figure]:
    """MFU as the train stage itself reports it, on rows of `shapes`: of its recipe's model and of one of 50 M parameters, and
    where the time of a step goes."""
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        small = ("source.pictures=2000", "source.interleaved=200", "source.heldout=20", "vae.steps=2")
        space = Workspace(load_recipe("shapes", small), Path(folder))
        for name in ("vae", "encode", "tokenize", "pack"):
            space.run(BY_NAME[name], Runtime(device="cpu"))
        large = ("model.width=640", "model.layers=10", "model.heads=10", "train.batch_rows=4", "train.optimizer=adamw")
        for name, settings, steps in (("shapes", (), 200), ("50 M", large, 16)):
            for precision, bound in (("fp32", 80), ("bf16", 60)):
                taken = (f"train.steps={steps}", f"train.log_every={steps // 4}", "train.warmup_steps=1")
                rest = ("train.preview_every=0", "train.eval_every=10000", f"train.precision={precision}")
                recipe = load_recipe("shapes", (*small, *settings, *taken, *rest))
                run_of = Workspace(recipe, Path(folder))
                run_of.run(BY_NAME["train"], Runtime(device="cpu"), force=True)
                rows = list(read_jsonl(run_of.target("checkpoint") / TIMING))[1:]
                mfu = 100 * statistics.median(row["mfu"] for row in rows)
                figures.append(at_least(f"MFU, {name}, {precision}", mfu, bound, "%"))
    for precision in ("fp32", "bf16"):
        figures += profile(precision)
    return figures


def profile(precision: str) -> list[Figure]:
    """Where the time of ragged steps goes, by operator."""
    ours = Ours(EQUAL, RAGGED, 8, precision)
    ours.steps(STEPS)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        ours.steps(STEPS)
    events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    whole = sum(event.self_cpu_time_total for event in events)
    figures = [Figure(f"a ragged step, {precision}", whole / STEPS / 1e3, "ms")]
    return figures + [Figure(f"  {event.key}", 100 * event.self_cpu_time_total / whole, "%") for event in events[:9]]


def main() -> int:
    torch.set_num_threads(os.cpu_count() or 1)
    with PeerProcess("peer_train.py") as peer:
        return run((equal, width, long, memory, utilisation), "train", peer)


if __name__ == "__main__":
    sys.exit(main())
