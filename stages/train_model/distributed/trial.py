"""Some real steps of a training with a model that is thrown away, to see in how many processes they are fastest.

The model has the first weights of the training and a learning rate of 0. The training itself builds its own later, and all
random draws are named by (seed, purpose, index): what is measured here leaves no trace in the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stages.core.device import autocast
from stages.core.hardware import threads
from stages.train_model.data import Data
from stages.train_model.distributed.ranks import Ranks, clip_gradients
from stages.train_model.objective import loss_sums, step_losses
from stages.train_model.optimizer import build_optimizers, update_average
from stages.train_model.sections import Sections

_ROUNDS = 2  # each way, in turn: another program may slow one of them down
_ROUND_SECONDS = 0.7  # of one process; a round is at least one step
_MOST_STEPS = 50
_MOST_SECONDS = 6.0  # after which no other round starts: long steps, or a busy machine


@dataclass(frozen=True)
class Speeds:
    """Steps per second in one process with all threads, and over all processes."""

    alone: float
    shared: float


class StepTrial:
    """The model, optimizers and rows of a training that is only measured."""

    def __init__(self, sections: Sections, sequences: Path, seed: int) -> None:
        self.sections, self.seed = sections, seed
        # compiling takes longer than the measurement, and is the same work in each process
        self.train = sections.train.model_copy(update={"compile": False})
        self.data = Data(sequences, sections.diffusion, sections.model)
        self.model = Ranks().build_model(sections.model, self.data.dims, self.train, seed)
        self.optimizers = build_optimizers(self.model, self.train)
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = 0.0
        self.ema = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}

    def seconds(self, ranks: Ranks, num_steps: int) -> float:
        """Take the first `num_steps` steps of the training."""
        started = time.perf_counter()
        for step in range(num_steps):
            self._step(ranks, step % self.train.steps)
        return time.perf_counter() - started

    def _step(self, ranks: Ranks, step: int) -> None:
        """The work of one step of `Training.run`."""
        rows = self.data.rows(self.train, step, self.seed)
        batches = self.data.batches(self.train, rows, step, self.seed, ranks)
        own = [sum(len(b.targets) for b in batches), sum(b.num_images for b in batches)]
        targets, images, context = ranks.all_reduce_sum([*own, sum(b.num_context for b in batches)])
        for batch in batches:
            with autocast(ranks.device, self.train.precision):
                sums = loss_sums(self.model, batch.to(ranks.device, self.train.attention))
                loss, _ = step_losses(sums, targets, images, self.sections.diffusion.image_weight)
            loss.backward()
        ranks.all_reduce_gradients(self.model, images, context)
        clip_gradients(self.model.parameters(), self.train.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.train.ema_decay:
            update_average(self.ema, self.model, step, self.train.ema_decay)


def compare(trial: StepTrial, ranks: Ranks, all_threads: int = 1, check: Callable[[], None] = lambda: None) -> Speeds:
    """Measure both ways in turn; all ranks call this together, and the main one alone takes the steps of one process.

    Args:
        trial: the training to measure.
        ranks: this process among all, each with its own threads.
        all_threads: of the main rank where it works alone.
        check: called between the rounds; raises where the measurement should stop.
    """
    alone = Ranks(ranks.device)
    num_steps = 0
    if ranks.main:
        with threads(all_threads):
            trial.seconds(alone, 1)  # the first step is slower than all others
            num_steps = min(_MOST_STEPS, int(_ROUND_SECONDS / trial.seconds(alone, 1)) or 1)
    num_steps = ranks.all_reduce_max(num_steps)
    trial.seconds(ranks, 1)
    seconds_alone = seconds_shared = 0.0
    rounds, another = 0, 1
    while ranks.all_reduce_max(another):
        check()
        if ranks.main:
            with threads(all_threads):
                seconds_alone += trial.seconds(alone, num_steps)
        ranks.barrier()
        seconds_shared += trial.seconds(ranks, num_steps)
        rounds += 1
        another = int(ranks.main and rounds < _ROUNDS and seconds_alone + seconds_shared < _MOST_SECONDS)
    steps = rounds * num_steps
    return Speeds(steps / max(seconds_alone, 1e-9), steps / seconds_shared)
