"""Train the transformer: Sequences + Latents -> Checkpoint. `Training.run` is the loop over steps, read from top to bottom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.checkpoint import EMA, FORM, PREVIEWS, REPORT, SAVES, TIMING, CheckpointContent
from stages.artifacts.context import StageContext
from stages.artifacts.sequences import Sequences
from stages.coders.quality import too_low
from stages.core.config import result_config
from stages.core.device import autocast
from stages.core.errors import TfcliError
from stages.core.events import Note, Progress, Warn
from stages.core.interrupts import stopped_by
from stages.diffusion.config import DiffusionConfig
from stages.generation.config import GenerationConfig
from stages.model.config import ModelConfig
from stages.train_model.batches import Batch
from stages.train_model.checkpointing import TrainState, load_state, newest_state, save, write_state
from stages.train_model.config import TrainConfig
from stages.train_model.data import Data
from stages.train_model.distributed.local import ranks_of
from stages.train_model.distributed.ranks import Ranks, clip_gradients, load_full_tensors
from stages.train_model.finetune import Start
from stages.train_model.heldout import heldout_losses
from stages.train_model.monitor.divergence import DivergenceMonitor
from stages.train_model.monitor.metrics import SKIPPED, MetricsLog
from stages.train_model.monitor.overfitting import OverfittingMonitor, epochs
from stages.train_model.monitor.previews import Previews
from stages.train_model.monitor.report import write_report
from stages.train_model.monitor.throughput import Meter, fields
from stages.train_model.objective import loss_sums, named_losses, step_losses
from stages.train_model.optimizer import build_optimizers, learning_rate, update_average
from stages.train_model.rope_base import with_rope_base
from stages.train_model.sections import Sections


def run(
    model: ModelConfig,
    diffusion: DiffusionConfig,
    train: TrainConfig,
    generation: GenerationConfig,
    sequences: Path,
    context: StageContext,
) -> None:
    """Train, save at intervals, seal at the end. After a kill, the same command resumes from the last save.

    Args:
        model: the recipe section.
        diffusion: the recipe section.
        train: the recipe section.
        generation: the section [sample.generation], which previews use.
        sequences: folder of the Sequences.
        context: what all stages get.

    Raises TfcliError: DIVERGED on a non-finite loss or gradient (before the optimizer step), TERMINATED or INTERRUPTED
    after a signal, with the state saved.
    """
    for tracker in train.trackers:
        tracker.require()
    model = with_rope_base(model, train.start_from, sequences, context.runtime.report)
    sections = Sections(model, diffusion, train, generation)
    with ranks_of(sections, sequences, context) as ranks:
        Training(sections, sequences, context, ranks).run()


@dataclass(frozen=True)
class _Counts:
    """Of the global batch of a step: text targets, images with a loss (each draw of one), and images that are only read."""

    targets: float
    images: float
    context: float


class Training:
    """One rank of a training. Each rank takes its rows of every step; the main rank alone writes and reports."""

    def __init__(self, sections: Sections, sequences: Path, context: StageContext, ranks: Ranks) -> None:
        self.sections, self.train = sections, sections.train
        self.build, self.runtime, self.seed, self.ranks = context.build, context.runtime, context.seed, ranks
        self.start = self._open_start(sequences)
        self.data = Data(sequences, sections.diffusion, sections.model, self.start)
        self.state = self._initial_state()
        self.saves = self.build.folder / SAVES
        self.resumed_from = newest_state(
            self.saves, self.build.folder, self.state, self.runtime.report, self.train.steps
        )
        if self.resumed_from:
            load_state(self.resumed_from, self.state)
            self.runtime.report(Note(f"resuming from step {self.state.step}"))
        # complete, but killed before the seal: all that is left is to seal
        self.is_complete = self.resumed_from == self.build.folder
        self.log = MetricsLog(
            self.build.folder, self.train.trackers if ranks.main else (), self.state.step, self.resumed_from
        )
        skipped = self.log.skipped_in_a_row(self.state.step)
        self.divergence = DivergenceMonitor(self.train, self.runtime.report, skipped)
        self.overfitting = OverfittingMonitor(self.train, self.log, self.saves, self.runtime.report)
        if self.resumed_from and not self.is_complete:
            self.overfitting.require_best(self.state.step)
        self.parameters = sum(weight.numel() for weight in self.state.model.parameters())
        self._report_setup()
        self.content = _content(sections, self.data, self.parameters)
        self.previews = Previews(self.content, sequences, self.build, sections.generation, self.runtime, self.seed)
        self.meter = Meter(sections.model, self.data.dims, ranks.device, self.train.precision, ranks.count)

    def run(self) -> None:
        """The loop over steps, and the seal after the last one."""
        state, ranks = self.state, self.ranks
        while True:
            done = state.step >= self.train.steps
            with self.meter.excluded_time():
                # evaluate
                failure = self._evaluate(done)
                # preview
                self._preview(done)
                # save
                signal = self._save(done, failure)
            if failure is not None:
                ranks.raise_on_main(failure)
            if done:
                break
            if signal:
                ranks.raise_on_main(stopped_by(signal, f"state saved at step {state.step}"))

            # load batches
            rows = self.data.rows(self.train, state.step, self.seed)
            with self.meter.loading():
                batches = self.data.batches(self.train, rows, state.step, self.seed, ranks)
            counts = self._global_counts(batches)

            # forward and backward
            losses = self._forward_backward(batches, counts)

            # all-reduce, clip
            ranks.all_reduce_gradients(state.model, counts.images, counts.context)
            norm = clip_gradients(state.model.parameters(), self.train.clip_norm)
            total = sum(losses, torch.zeros(3, device=ranks.device))
            # the only place in a step where the host waits for the device
            figures = torch.cat((ranks.all_reduce_sum_(total), norm[None])).tolist()

            # optimizer
            taken = self._check_step(figures, losses, rows)
            rate = self._optimizer_step(taken)

            # log
            self.meter.add(batches)
            self._log_step(figures, counts, rate, taken)
        self._seal()

    def _open_start(self, sequences: Path) -> Start | None:
        """The checkpoint that is fine-tuned, None for a training from random weights."""
        path, sections = self.train.start_from, self.sections
        return Start.open(path, sections.model, sections.diffusion, Sequences.open(sequences)) if path else None

    def _initial_state(self) -> TrainState:
        """Weights at step 0, their running average and new optimizers."""
        network = self.ranks.build_model(self.sections.model, self.data.dims, self.train, self.seed)
        if self.start is not None:
            load_full_tensors(network, self.start.weights())
            why = "latents are normalised as they were there"
            self.runtime.report(Note(f"starting from {self.train.start_from}; {why}"))
        average = {}
        if self.train.ema_decay:
            average = {name: weight.detach().clone() for name, weight in network.named_parameters()}
        return TrainState(network, build_optimizers(network, self.train), average, ranks=self.ranks)

    def _report_setup(self) -> None:
        report, ranks = self.runtime.report, self.ranks
        report(Note(self._size_and_device()))
        if why := too_low(self.data.psnr, "the pictures of this training"):
            report(Warn(why))
        if self.train.preview_every and ranks.mesh is not None:
            report(Warn(f'no previews with train.sharding = "{self.train.sharding}": no process holds all weights'))

    def _size_and_device(self) -> str:
        device, count = self.ranks.device, self.ranks.count
        where = str(device) if count == 1 else f"{count} x {device.type}, sharding {self.train.sharding}"
        return f"{self.parameters / 1e6:.2f} M parameters on {where}, {self.train.precision}"

    def _evaluate(self, done: bool) -> TfcliError | None:
        """Measure and check the held-out losses, where they are due. Returns the failure to raise after the save, if any."""
        step = self.state.step
        if not done and step % self.train.eval_every:
            return None
        losses, bad_rows = heldout_losses(self.state, self.data, self.train, self.seed)
        failure = self.divergence.check_heldout(step, bad_rows)
        self.log.add_metrics(step, losses, "heldout_")
        if not self.is_complete:
            self.overfitting.check(self.state)
        return failure

    def _preview(self, done: bool) -> None:
        every, step = self.train.preview_every, self.state.step
        due = every and step and (done or step % every == 0)
        if due and self.ranks.mesh is None and self.ranks.main:
            self.previews.generate(self.state)

    def _save(self, done: bool, failure: TfcliError | None) -> int:
        """Save where it is due, after a signal and before a failure. Returns the signal's number: a signal to one process stops
        all of them here; 0 without one."""
        step = self.state.step
        signal = self.ranks.all_reduce_max(self.runtime.interrupts.signal_number or 0)
        due = step % self.train.save_every == 0 or signal
        if step > 0 and (failure or (not done and due)):
            if self.ranks.main:
                self._write_report()
                self.meter.remeasure_peak()
            save(self.saves, self.state, self.train.keep_saves, self.log.metrics)
        return signal

    def _write_report(self) -> None:
        self.log.flush()
        sections = self.sections
        settings = {
            "model": sections.model,
            "diffusion": sections.diffusion,
            "train": sections.train,
            "sample.generation": sections.generation,
        }
        summary = f"step {self.state.step:,} of {self.train.steps:,}; {self._size_and_device()}"
        write_report(self.build, summary, self.log, settings)

    def _global_counts(self, batches: list[Batch]) -> _Counts:
        targets, images = sum(len(batch.targets) for batch in batches), sum(batch.num_images for batch in batches)
        context = sum(batch.num_context for batch in batches)
        return _Counts(*self.ranks.all_reduce_sum([targets, images, context]))

    def _forward_backward(self, batches: list[Batch], counts: _Counts) -> list[Tensor]:
        """Accumulate the gradients of the micro-batches. Returns the losses of each, as `step_losses` gives them."""
        losses = []
        for batch in batches:
            with autocast(self.ranks.device, self.train.precision):
                sums = loss_sums(self.state.model, batch.to(self.ranks.device, self.train.attention))
                loss, figures = step_losses(sums, counts.targets, counts.images, self.sections.diffusion.image_weight)
            loss.backward()
            losses.append(figures)
        return losses

    def _check_step(self, figures: list[float], losses: list[Tensor], rows: Any) -> bool:
        """Whether the optimizer takes the step. Raises TfcliError (DIVERGED), with the rows whose loss is not finite."""
        bad = rows if np.isfinite(figures).all() else self._bad_rows(losses, rows)
        try:
            return self.divergence.check_step(self.state.step, figures, bad)
        except TfcliError as error:
            self.ranks.raise_on_main(error)

    def _bad_rows(self, losses: list[Tensor], rows: Any) -> Any:
        """The rows of the micro-batches, of all ranks, whose loss is not finite; all rows where only gradients are not."""
        local = self.ranks.local_rows(len(rows))
        size = self.train.micro_rows or max(1, len(local))
        bad = np.zeros(len(rows))
        for number, figures in enumerate(losses):
            bad[local[number * size : (number + 1) * size]] = not bool(figures.isfinite().all())
        marked = np.array(self.ranks.all_reduce_sum(bad.tolist())) > 0
        return rows[marked] if marked.any() else rows

    def _optimizer_step(self, taken: bool) -> float:
        """Update the weights and their running average, unless the step is skipped. Returns the learning rate."""
        state = self.state
        rate = learning_rate(state.step, self.train)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            if taken:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if taken:
            update_average(state.ema, state.model, state.step, self.train.ema_decay)
        state.step += 1
        return rate

    def _log_step(self, figures: list[float], counts: _Counts, rate: float, taken: bool) -> None:
        """Log the metrics of a step where they are due. figures: L, text loss, image loss, gradient norm."""
        step, steps = self.state.step, self.train.steps
        if not taken:
            self.log.add_metrics(step, {SKIPPED: 1.0})
            return
        if step % self.train.log_every and step != steps:
            return
        losses = named_losses(figures[1], counts.targets, figures[2], counts.images)
        self.log.add_metrics(step, losses | {"grad_norm": figures[3], "learning_rate": rate})
        shown = {name.removesuffix("_loss"): f"{value:.3f}" for name, value in losses.items()}
        shown |= {"epoch": epochs(min(step, self.data.late_from(self.train)), self.train, self.data.content.num_rows)}
        shown |= {"norm": f"{figures[3]:.2g}", "rate": f"{rate:.1e}"}
        if self.ranks.main:  # another rank may have had no row at all
            row = self.meter.row(steps - step)
            self.log.add_timing(step, row)
            shown |= fields(row)
        self.runtime.report(Progress("train", step, steps, "steps", shown))

    def _seal(self) -> None:
        """Write the final weights, report and manifest."""
        build = self.build
        if not self.is_complete:
            if self.ranks.main:
                self.log.flush()  # before the state: a complete state always has its whole log
            self.overfitting.load_best(self.state)
            write_state(build.folder, self.state, self.log.metrics)
        if not self.ranks.main:
            return
        self._write_report()
        self.log.close()
        build.remove(SAVES)
        start_from = self.start.provenance() if self.start else None
        stats = {**self.overfitting.stats(), "parameters": self.parameters, "start_from": start_from}
        volatile = (TIMING, REPORT, PREVIEWS, *(tracker.folder for tracker in self.train.trackers))
        files = [name for name in FORM.files if name != EMA or self.train.ema_decay]
        build.seal(self.content.model_dump(), stats, volatile=volatile, files=files)
        self.runtime.report(Note(f"curves and previews: {build.target / REPORT}"))


def _content(sections: Sections, data: Data, parameters: int) -> CheckpointContent:
    grid = data.content.grids[0]
    return CheckpointContent(
        model=result_config(sections.model),
        diffusion=result_config(sections.diffusion),
        vocab_size=data.dims.vocab_size,
        latent_channels=data.dims.latent_channels,
        patch_side=data.dims.patch_side,
        latent_height=grid.height,
        latent_width=grid.width,
        picture_size=data.content.picture_size,
        channel_mean=data.content.channel_mean,
        channel_std=data.content.channel_std,
        latent_limit=data.latent_limit(),
        row_length=data.content.row_length,
        has_ema=sections.train.ema_decay > 0,
        parameters=parameters,
        steps=sections.train.steps,
    )
