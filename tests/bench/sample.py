"""Sampling against transfusion-pytorch, at equal parameters, on this machine: `make bench-sample`.

Each pair is one run of the peer (in a process of its own, which waits in between) and one of ours, in turn; ratios are medians
of pairs. Latents 8 x 8 x 8 in patches of one pixel, a prompt of 20 tokens, guidance 3, 30 evaluations of both branches.
python -m tests.bench.sample [image batch text own outside] measures those parts only; writes work/bench/sample.json.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from stages.core.runtime import Runtime
from stages.diffusion.process import Diffusion
from stages.diffusion.samplers import DdimSampler
from stages.diffusion.schedules import CosineSchedule
from stages.generation.config import GenerationConfig
from stages.generation.engine import Engine
from stages.generation.prompts import Prompt, TextPiece
from stages.generation.reference import Reference
from stages.model.config import ModelConfig
from stages.model.cpu.inference import optimize_for_inference
from stages.model.transformer import ModelDims, Transfusion
from tests.bench.figures import Figure, at_least, once, pairs, run
from tests.bench.peer import PeerProcess

EVALUATIONS, TOKENS = 30, 128
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MATRIX = ("_linear_pointwise", "scaled_dot_product", "aten::mm", "aten::addmm", "aten::addmv", "aten::bmm")


class Numbers:
    """A text coder of numbers, so that what is measured is the model."""

    pad, bos, eos, boi, eoi = range(5)

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return "".join(f" {token}" for token in ids)


TEXT = TextPiece(" ".join(str(number * 7 % 200 + 5) for number in range(20)))
DRAW, WRITE = Prompt((TEXT,), image_next=True), Prompt((TEXT,), max_images=0)


def build(precision: str) -> Any:
    """What the engine takes of a checkpoint: a model of the peer's size with random weights, ready to run."""
    config = ModelConfig(width=384, layers=11, heads=6, ffn_width=1024)
    model = Transfusion(config, ModelDims(vocab_size=261, latent_channels=8, patch_side=1))
    model.initialise(torch.Generator().manual_seed(0))
    parameters = sum(weight.numel() for weight in model.parameters())
    moved = sum(weight.numel() for block in model.blocks for weight in block.parameters())
    content = SimpleNamespace(patch_side=1, latent_limit=4.0, row_length=4096)
    return SimpleNamespace(
        model=optimize_for_inference(model.eval(), DTYPES[precision], 1000),
        text=Numbers(),
        device=torch.device("cpu"),
        latent_shape=(8, 8, 8),
        size_ids={},
        checkpoint=SimpleNamespace(content=content),
        diffusion=Diffusion(CosineSchedule()),
        parameters=parameters,
        moved=(moved + 261 * 384) * DTYPES[precision].itemsize,  # bytes read for one token
    )


OPTIONS = GenerationConfig(sampler=DdimSampler(steps=EVALUATIONS), guidance=3.0, max_text_tokens=TOKENS)
Peer = Callable[..., float]


def asking(peer: PeerProcess) -> Peer:
    """A function that has the peer do a task and returns its seconds."""

    def ask(what: str, precision: str, batch: int = 1, cached: bool = True, tokens: int = TOKENS) -> float:
        answer = peer.ask(what=what, precision=precision, batch=batch, cached=cached, tokens=tokens)
        if what == "image":
            most = 2 * EVALUATIONS + batch + 2  # and a prefix for each
            assert 2 * EVALUATIONS <= answer["calls"] <= most, answer
        taken: float = answer["seconds"]
        return taken

    return ask


def image(ask: Peer) -> list[Figure]:
    """One image, batch 1: (our precision, the peer's, the peer's cache, the bound)."""
    cases = [
        ("fp32", "fp32", True, 2.8),
        ("fp32", "fp32", False, 2.8),
        ("bf16", "bf16", True, 5),
        ("bf16", "fp32", True, 5),
    ]
    figures = []
    for mine, theirs, cached, bound in cases:
        engine = Engine(build(mine), OPTIONS, 0, Runtime())
        a, b, ratio = pairs(
            lambda p=theirs, c=cached: ask("image", p, cached=c),
            lambda e=engine: once(lambda: e.generate([DRAW])),
            5,
        )
        name = f"image, {mine} / peer {theirs}, its cache {'on' if cached else 'off'}"
        figures += [at_least(name, ratio, bound), Figure("  peer, ours", a, f"s, {b:.3f} s")]
    return figures


def batch(ask: Peer) -> list[Figure]:
    """16 images of 16 prompts: per image against the peer's batch of 16 and against the peer one by one."""
    engine = Engine(build("fp32"), OPTIONS, 0, Runtime())
    work = [DRAW] * 16
    a, b, ratio = pairs(lambda: ask("image", "fp32", batch=16), lambda: once(lambda: engine.generate(work)), 2)
    alone = statistics.median(ask("image", "fp32") for _ in range(3))
    return [
        at_least("batch of 16, fp32 / peer's batch of 16", ratio, 4.0),
        Figure("  per image: peer, ours", a / 16, f"s, {b / 16:.3f} s"),
        at_least("batch of 16, fp32, per image / peer one by one", alone * 16 / b, 4.0),
    ]


def bandwidth() -> float:
    """Bytes a second of reading memory: a sum over 512 MB."""
    numbers = torch.ones(2**27)
    numbers.sum()
    return numbers.nbytes / statistics.median(once(numbers.sum) for _ in range(7))


def text(ask: Peer) -> list[Figure]:
    """A token, both cached, batch 1: `sample_one` and the peer's fastest, text without images; and the floor."""
    speed = bandwidth()
    figures = [Figure("memory read", speed / 1e9, "GB/s")]
    for precision in ("fp32", "bf16"):
        loaded = build(precision)
        engine = Engine(loaded, OPTIONS, 0, Runtime())

        def ours(engine: Engine = engine) -> float:
            return once(lambda: engine.generate([WRITE]))

        for what in ("text", "text only"):
            a, b, ratio = pairs(lambda w=what, p=precision: ask(w, p), ours, 5)
            bound = 5.0 if what == "text" and precision == "fp32" else 0.0
            figure = at_least(f"token, {precision} / peer's {what}", ratio, bound)
            figures.append(figure if bound else Figure(figure.name, ratio, "x"))
            figures.append(Figure("  peer, ours", 1e3 * a / TOKENS, f"ms, {1e3 * b / TOKENS:.2f} ms"))
        floor = loaded.moved / speed
        figures.append(Figure(f"  weights {loaded.moved / 1e6:.0f} MB: floor", 1e3 * floor, "ms"))
        figures.append(Figure("  ours / floor", b / TOKENS / floor, "x"))
    return figures


def own(_ask: Peer) -> list[Figure]:
    """Against our own path without a cache, fp32."""
    loaded = build("fp32")
    engine, plain = Engine(loaded, OPTIONS, 0, Runtime()), Reference(loaded, OPTIONS, 0)
    short = OPTIONS.model_copy(update={"max_text_tokens": 64})
    writer, plain_writer = Engine(loaded, short, 0, Runtime()), Reference(loaded, short, 0)
    _, _, drawn = pairs(lambda: once(lambda: plain.generate(DRAW, 0)), lambda: once(lambda: engine.generate([DRAW])), 3)
    _, _, written = pairs(
        lambda: once(lambda: plain_writer.generate(WRITE, 0)), lambda: once(lambda: writer.generate([WRITE])), 3
    )
    return [
        Figure("image with cache / without", drawn, "x"),
        Figure("64 tokens with cache / without", written, "x"),
    ]


def outside(_ask: Peer) -> list[Figure]:
    """The share of time outside of matrix products and attention, and what it is (fp32 and bf16, one image; text)."""
    figures = []
    for precision, prompt, name in (("fp32", DRAW, "image"), ("bf16", DRAW, "image"), ("fp32", WRITE, "text")):
        engine = Engine(build(precision), OPTIONS, 0, Runtime())
        engine.generate([prompt])
        whole = statistics.median(once(lambda e=engine, p=prompt: e.generate([p])) for _ in range(3))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            engine.generate([prompt])
        events = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
        matrix = sum(event.self_cpu_time_total for event in events if any(part in event.key for part in MATRIX))
        figures.append(Figure(f"{name} {precision}: outside of matrix work", 100 * (1 - matrix / 1e6 / whole), "%"))
        rest = [event for event in events if not any(part in event.key for part in MATRIX)][:5]
        figures += [Figure(f"  {e.key}", 100 * e.self_cpu_time_total / 1e6 / whole, f"% x {e.count}") for e in rest]
    return figures


def main() -> int:
    torch.set_num_threads(os.cpu_count() or 1)
    with PeerProcess("peer_sample.py") as peer:
        print(f"parameters: peer {peer.greeting['parameters']:,}, ours {build('fp32').parameters:,}")
        return run((image, batch, text, own, outside), "sample", asking(peer))


if __name__ == "__main__":
    sys.exit(main())
