"""Trainings on several processes of this machine, as torchrun would start them, for tests."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.artifacts.context import StageContext
from stages.artifacts.folder import Build, building
from stages.core.errors import TfcliError
from stages.core.events import Event, Progress
from stages.core.interrupts import Interrupts
from stages.core.runtime import Launch, Runtime
from stages.diffusion.config import DiffusionConfig
from stages.generation.config import GenerationConfig
from stages.model.config import ModelConfig
from stages.train_model.config import TrainConfig
from stages.train_model.stage import run
from tests.builders import stamp

MODEL = ModelConfig(width=32, layers=2, heads=2)
# a large epsilon: with the usual one an update of AdamW is the sign of a gradient, rounding of a tiny one included
TRAIN = TrainConfig(
    steps=6,
    batch_rows=3,
    learning_rate=1e-3,
    warmup_steps=2,
    epsilon=1e-2,
    ema_decay=0.9,
    eval_every=3,
    eval_rows=3,
    log_every=1,
    save_every=100,
)


@dataclass(frozen=True)
class Job:
    """One training into `folder`. at: called at the end of these steps, by process."""

    folder: str
    train: TrainConfig
    at: dict[tuple[int, int], Callable[[Interrupts], None]] = field(default_factory=dict)
    model: ModelConfig = MODEL
    sequences: str = "sequences"
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)


@dataclass(frozen=True)
class Outcome:
    """How a process left a job."""

    code: int
    what: str = ""
    why: str = ""
    seconds: float = 0.0


def term(interrupts: Interrupts) -> None:
    interrupts.signal_number = signal.SIGTERM


def die(_interrupts: Interrupts) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(_interrupts: Interrupts) -> None:
    raise TfcliError("row 7 cannot be read", why="the disk is gone")


def spoil(_interrupts: Interrupts) -> None:
    """The next images of this process have weights that are not finite."""
    from stages.diffusion.process import Diffusion

    right = Diffusion.loss_weights

    def once(*given: Any) -> Any:
        Diffusion.loss_weights = right  # type: ignore[method-assign]
        return right(*given) * float("nan")

    Diffusion.loss_weights = once  # type: ignore[method-assign]


def train(job: Job, work: Path, rank: int = 0, ranks: int = 1) -> Outcome:
    """Do a job in this process."""
    interrupts = Interrupts()

    def report(event: Event) -> None:
        act = job.at.get((rank, event.done)) if isinstance(event, Progress) else None
        if act:
            act(interrupts)

    runtime = Runtime(report, interrupts, "cpu", launch=Launch(rank, ranks, rank))
    target = work / job.folder
    mark = stamp("checkpoint", "train", {"sequences": work / job.sequences}, target)
    given: dict[str, Any] = {
        "model": job.model,
        "diffusion": job.diffusion,
        "train": job.train,
        "generation": GenerationConfig(),
        "sequences": work / job.sequences,
    }
    began = time.monotonic()
    try:
        if rank:
            run(context=StageContext(Build(target, mark), runtime, 0), **given)
        else:
            with building(target, mark, runtime) as build:
                run(context=StageContext(build, runtime, 0), **given)
    except TfcliError as error:
        return Outcome(int(error.code), error.what, error.why, time.monotonic() - began)
    except Exception:  # shown by the test that compares the outcomes
        return Outcome(1, traceback.format_exc())
    return Outcome(0)


def train_on(ranks: int, jobs: list[Job], work: Path) -> list[list[Outcome]]:
    """Do the jobs, one after another, in `ranks` processes each; their outcomes, by job and process. One that was killed has
    -9 and does no job after that."""
    import torch.distributed as dist

    # torchrun's part: a store for the processes of each job
    stores = [dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False) for _ in jobs]
    ports = [store.port for store in stores]
    context = multiprocessing.get_context("spawn")
    children = [
        context.Process(target=_child, args=(rank, ranks, ports, jobs, work), daemon=True) for rank in range(ranks)
    ]
    for child in children:
        child.start()
    deadline = time.monotonic() + 300
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
        child.kill()  # one that hangs has no outcome of that job
    outcomes: list[list[Outcome]] = []
    for number in range(len(jobs)):
        files = [work / f"outcome-{ranks}-{number}-{rank}.json" for rank in range(ranks)]
        outcomes.append([Outcome(**json.loads(f.read_text())) if f.exists() else Outcome(-9) for f in files])
    return outcomes


def _child(rank: int, ranks: int, ports: list[int], jobs: list[Job], work: Path) -> None:
    import torch

    from stages.core import hardware

    torch.set_num_threads(1)
    hardware.matmul_peak = lambda *_: 1e11  # measured, it takes half a second of each training
    os.environ |= {
        "MASTER_ADDR": "localhost",
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    for number, job in enumerate(jobs):
        os.environ["MASTER_PORT"] = str(ports[number])
        outcome = train(job, work, rank, ranks)
        (work / f"outcome-{ranks}-{number}-{rank}.json").write_text(json.dumps(vars(outcome)))
