"""Figures of benchmarks, the bounds that they are held against, and the table and JSON of a run."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Figure:
    """A measured figure and the bound that it is held against (None: for information)."""

    name: str
    value: float
    unit: str
    bound: str = ""
    holds: bool | None = None


def at_least(name: str, value: float, bound: float, unit: str = "x") -> Figure:
    return Figure(name, float(value), unit, f">= {bound:g}", bool(value >= bound))


def at_most(name: str, value: float, bound: float, unit: str) -> Figure:
    return Figure(name, float(value), unit, f"<= {bound:g}", bool(value <= bound))


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Median after one call to warm up."""
    work()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def once(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def pairs(theirs: Callable[[], float], ours: Callable[[], float], count: int) -> tuple[float, float, float]:
    """Medians of the other's and our seconds and of their ratio, the two in turn, after one of each to warm up."""
    theirs(), ours()
    taken = [(theirs(), ours()) for _ in range(count)]
    return (
        statistics.median(a for a, _ in taken),
        statistics.median(b for _, b in taken),
        statistics.median(a / b for a, b in taken),
    )


def run(parts: Sequence[Callable[..., list[Figure]]], name: str, *given: Any) -> int:
    """Call the parts (those named on the command line, or all) with what is given, print the table and write
    work/bench/<name>.json; 0, the exit code."""
    chosen = sys.argv[1:]
    unknown = set(chosen) - {part.__name__ for part in parts}
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))} (known: {', '.join(part.__name__ for part in parts)})")
        return 2
    figures = []
    for part in parts:
        if not chosen or part.__name__ in chosen:
            for figure in part(*given):
                mark = {True: "holds", False: "MISSED", None: ""}[figure.holds]
                print(f"{figure.name:56} {figure.value:12,.3f} {figure.unit:14} {figure.bound:8} {mark}", flush=True)
                figures.append(asdict(figure))
    target = Path("work/bench") / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    target.write_text(json.dumps({"machine": facts, "figures": figures}, indent=1))
    print(target)
    return 0
