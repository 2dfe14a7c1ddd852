"""kill -9 at a random moment of a stage, or of two, and the same command again: the same bytes as without."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from typing import Any

from tests.fuzz.child import Kill
from tests.fuzz.rules import Case, stage
from tests.fuzz.steps import Step
from tests.fuzz.world import STAGES, World

WRITES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")
EVENTS = {
    "vae": 160,
    "encode": 420,
    "tokenize": 300,
    "pack": 400,
    "train": 330,
    "sample": 220,
    "eval": 120,
}  # about, on this world


def after(seconds: float) -> Kill:
    """End the process when so many seconds have passed."""

    def begin() -> None:
        def wait() -> None:
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=wait, daemon=True).start()

    return begin


def at_event(number: int) -> Kill:
    """End the process at the number-th opening, renaming, making or removing of a file of a work folder."""

    def begin() -> None:
        seen = 0

        def watch(event: str, args: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in WRITES and "work" in str(args[0]):
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)

    return begin


def kill(world: World, rng: random.Random, seed: int, number: int) -> Case:
    """One or two kills of a stage, then the stage."""
    name = rng.choice(list(STAGES))
    steps = [Step("delete", f"work/{STAGES[name]}")]
    command = stage(name)
    if rng.random() < 0.3:
        steps, command = [], stage(name, "--force")  # over a finished one
    kills: dict[int, Kill] = {}
    told = []
    for index in range(rng.choice([1, 1, 2, 3])):
        if rng.random() < 0.5:
            seconds = rng.uniform(0.0, world.seconds[name] * 1.05)
            kills[index] = after(seconds)
            told.append(f"kill -9 after {seconds:.3f} s")
        else:
            event = rng.randint(1, EVENTS[name])
            kills[index] = at_event(event)
            told.append(f"kill -9 at file operation {event}")
    again = stage(name)  # without --force: it goes on
    commands = [command] * len(kills) + [again, stage("run"), ["verify", "work"]]
    return Case("kill", seed, number, steps, commands, codes={0}, kills=kills, about=", ".join(told))
