"""Train the transformer: Sequences + Latents -> Checkpoint. `run` is the program, read from top to bottom."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.checkpoint import EMA, FORM, PREVIEWS, REPORT, SAVES, TIMING, CheckpointContent
from stages.artifacts.context import StageContext
from stages.artifacts.latents import Latents
from stages.artifacts.sequences import Sequences, Side
from stages.coders.quality import too_low
from stages.coders.scale import LatentScale
from stages.core.device import autocast
from stages.core.errors import TfcliError
from stages.core.events import Note, Progress, Warn
from stages.core.interrupts import stopped_by
from stages.diffusion.config import DiffusionConfig
from stages.diffusion.process import Diffusion
from stages.generation.config import GenerationConfig
from stages.model.config import ModelConfig
from stages.model.transformer import ModelDims
from stages.train_model.batches import Batch, BatchMaker, rows_of_step
from stages.train_model.checkpointing import TrainState, load_state, newest_state, save, write_state
from stages.train_model.config import TrainConfig
from stages.train_model.distributed.launch import process_group
from stages.train_model.distributed.ranks import Ranks, clip_gradients, load_full_tensors, reshard
from stages.train_model.finetune import Start
from stages.train_model.monitor.divergence import Health
from stages.train_model.monitor.metrics import SKIPPED, Journal
from stages.train_model.monitor.overfitting import Overfitting, epochs
from stages.train_model.monitor.previews import Previews
from stages.train_model.monitor.report import write_report
from stages.train_model.monitor.throughput import Meter, fields
from stages.train_model.objective import loss_sums
from stages.train_model.optimizer import averaged_weights, build_optimizers, learning_rate, update_average

_LEVELS = 4  # quarters of the noise levels, in held-out losses


def run(
    model: ModelConfig,
    diffusion: DiffusionConfig,
    train: TrainConfig,
    generation: GenerationConfig,
    sequences: Path,
    context: StageContext,
) -> None:
    """Train, save on the way, seal at the end. The same command after a kill goes on from the last save. generation: how
    previews are drawn.

    Raises TfcliError: DIVERGED on a non-finite loss or gradient (before the optimizer step), TERMINATED or INTERRUPTED
    after a signal, with the state saved.
    """
    for tracker in train.trackers:
        tracker.require()
    with process_group(context.runtime, train) as ranks:
        _train(model, diffusion, train, generation, sequences, context, ranks)


def _train(
    model: ModelConfig,
    diffusion: DiffusionConfig,
    train: TrainConfig,
    generation: GenerationConfig,
    sequences: Path,
    context: StageContext,
    ranks: Ranks,
) -> None:
    """The same on one of many processes: each takes its rows of every step, the main one alone writes and reports."""
    build, runtime, seed = context.build, context.runtime, context.seed
    device = ranks.device
    start = Start.open(train.start_from, model, diffusion, Sequences.open(sequences)) if train.start_from else None
    data = Data(sequences, diffusion, model, start)
    network = ranks.build_model(model, data.facts, train, seed)
    if start is not None:
        load_full_tensors(network, start.weights())
        runtime.report(Note(f"starting from {train.start_from}; latents are normalised as they were there"))
    average = {name: weight.detach().clone() for name, weight in network.named_parameters()} if train.ema_decay else {}
    state = TrainState(network, build_optimizers(network, train), average, ranks=ranks)
    saves = build.folder / SAVES
    found = newest_state(saves, build.folder, state, runtime.report, train.steps)
    if found:
        load_state(found, state)
        runtime.report(Note(f"going on from step {state.step}"))
    journal = Journal(build.folder, train.trackers if ranks.main else (), state.step, found)
    health = Health(train, runtime.report, journal.skipped_in_a_row(state.step))
    watch = Overfitting(train, journal, saves, runtime.report)
    if found and found != build.folder:
        watch.require_best(state.step)
    parameters = sum(weight.numel() for weight in network.parameters())
    where = str(device) if ranks.count == 1 else f"{ranks.count} x {device.type}, sharding {train.sharding}"
    runtime.report(Note(f"{parameters / 1e6:.2f} M parameters on {where}, {train.precision}"))
    content = _content(model, diffusion, train, data, parameters)
    if why := too_low(data.psnr, "the pictures of this training"):
        runtime.report(Warn(why))
    previews = Previews(content, sequences, build, generation, runtime, seed)
    meter = Meter(model, data.facts, device, train.precision, ranks.count)
    draws = train.preview_every and ranks.mesh is None
    if train.preview_every and not draws:
        runtime.report(Warn(f'no previews with train.sharding = "{train.sharding}": no process holds all weights'))

    def report() -> None:
        journal.flush()
        settings = {"model": model, "diffusion": diffusion, "train": train, "sample.generation": generation}
        facts = (
            f"step {state.step:,} of {train.steps:,}; {parameters / 1e6:.2f} M parameters, {where}, {train.precision}"
        )
        write_report(build, facts, journal, settings)

    while True:
        done = state.step >= train.steps
        with meter.aside():
            failure = None
            if done or state.step % train.eval_every == 0:
                heldout, bad_rows = _heldout_losses(state, data, train, seed)
                failure = health.heldout(state.step, bad_rows)
                journal.add_metrics(state.step, heldout, "heldout_")
                if found != build.folder:
                    watch.look(state)
            due = draws and state.step and (done or state.step % train.preview_every == 0)
            if due and ranks.main:
                previews.draw(state)
            stop = ranks.all_reduce_max(
                runtime.interrupts.signal_number or 0
            )  # a signal to one process stops all of them here
            save_due = state.step % train.save_every == 0 or stop
            if state.step > 0 and (failure or (not done and save_due)):
                if ranks.main:
                    report()
                    meter.again()
                save(saves, state, train.keep_saves, journal.metrics)
        if failure is not None:  # after the save: the next run goes on from here
            ranks.raise_on_main(failure)
        if done:
            break
        if stop:
            ranks.raise_on_main(stopped_by(stop, f"state saved at step {state.step}"))

        rows = data.rows(train, state.step, seed)
        with meter.loading():
            batches = data.batches(train, rows, state.step, seed, ranks)
        targets, images = sum(len(batch.targets) for batch in batches), sum(batch.num_images for batch in batches)
        read = sum(batch.num_read for batch in batches)
        num_targets, num_images, num_read = ranks.all_reduce_sum([targets, images, read])  # of all processes
        losses, passes = torch.zeros(3, device=device), []  # as trained, of text, of images
        for batch in batches:
            with autocast(device, train.precision):
                sums = loss_sums(network, batch.to(device, train.attention))
                loss = sums.text / max(1, num_targets)
                loss = loss + diffusion.image_weight * sums.weighted_image / max(1, num_images)
            loss.backward()
            text, image = sums.text / max(1, num_targets), sums.image / max(1, num_images)
            passes.append(torch.stack((loss, text, image)).detach())
            losses += passes[-1]
        ranks.all_reduce_gradients(network, num_images, num_read)
        norm = clip_gradients(network.parameters(), train.clip_norm)
        # the one place in a step where the host waits for the device
        figures = torch.cat((ranks.all_reduce_sum_(losses), norm[None])).tolist()
        bad = rows if np.isfinite(figures).all() else _rows_of(passes, rows, train, ranks)
        try:
            taken = health.takes(state.step, figures, bad)
        except TfcliError as error:
            ranks.raise_on_main(error)
        rate = learning_rate(state.step, train)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            if taken:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if taken:
            update_average(state.ema, network, state.step, train.ema_decay)
        state.step += 1
        meter.add(batches)

        if not taken:
            journal.add_metrics(state.step, {SKIPPED: 1.0})
        elif state.step % train.log_every == 0 or state.step == train.steps:
            measured = _measured(figures[1], num_targets, figures[2], num_images)
            journal.add_metrics(state.step, measured | {"grad_norm": figures[3], "learning_rate": rate})
            shown = {name.removesuffix("_loss"): f"{value:.3f}" for name, value in measured.items()}
            shown |= {"epoch": epochs(min(state.step, data.late_from(train)), train, data.content.num_rows)}
            shown |= {"norm": f"{figures[3]:.2g}", "rate": f"{rate:.1e}"}
            if ranks.main:  # another one may have had no row at all
                row = meter.row(train.steps - state.step)
                journal.add_timing(state.step, row)
                shown |= fields(row)
            runtime.report(Progress("train", state.step, train.steps, "steps", shown))

    if found != build.folder:  # else it was killed between this and the seal
        if ranks.main:
            journal.flush()  # a state that is complete stands beside all of its log
        watch.put_best(state)
        write_state(build.folder, state, journal.metrics)
    if not ranks.main:
        return
    report()
    journal.close()
    build.remove(SAVES)
    stats = {**watch.stats(), "parameters": parameters, "start_from": start.facts() if start else None}
    volatile = (TIMING, REPORT, PREVIEWS, *(tracker.folder for tracker in train.trackers))
    files = [name for name in FORM.files if name != EMA or train.ema_decay]
    build.seal(content.model_dump(), stats, volatile=volatile, files=files)
    runtime.report(Note(f"what it learned, as curves: {build.target / REPORT}"))


class Data:
    """The sides of Sequences and the latents behind them. late: rows for the end of training, None where there are none."""

    def __init__(
        self, folder: Path, diffusion: DiffusionConfig, model: ModelConfig, start: Start | None = None
    ) -> None:
        sequences = Sequences.open(folder)
        self.content = start.rescaled(sequences.content) if start else sequences.content
        latents = Latents.open(sequences.latents_folder())
        self.psnr = float(latents.manifest.stats.get("psnr_check", math.inf))  # of the autoencoder; tests have none
        self.readers = tuple(latents.rows(grid) for grid in range(len(self.content.grids)))
        self.facts = ModelDims(self.content.vocab_size, self.content.latent_channels, self.content.patch_side)
        process = Diffusion(diffusion.schedule, diffusion.target, diffusion.times)
        self.num_times = process.num_steps
        bidirectional = model.image_attention == "bidirectional"

        def maker(side: Side) -> BatchMaker:
            return BatchMaker(
                sequences.split(side),
                self.content,
                self.readers,
                process,
                noise_limit=diffusion.noise_limit,
                weighting=diffusion.weighting,
                bidirectional=bidirectional,
                clean_context=diffusion.context_images == "clean",
            )

        self.train, self.heldout = maker("train"), maker("heldout")
        self.late = maker("late") if self.content.late_rows else None

    def rows(self, train: TrainConfig, step: int, seed: int) -> Any:
        """The rows of a step: of the training side, and from `late_from` on of the late one."""
        first = self.late_from(train)
        if step >= first:
            return rows_of_step(self.content.late_rows, train.batch_rows, seed, step - first)
        return rows_of_step(self.content.num_rows, train.batch_rows, seed, step)

    def late_from(self, train: TrainConfig) -> int:
        """The first step of the late phase; train.steps where there is none."""
        return train.steps - (math.ceil(train.late_share * train.steps) if self.late else 0)

    def batches(self, train: TrainConfig, rows: Any, step: int, seed: int, ranks: Ranks) -> list[Batch]:
        """This process' rows of a step, cut into forward passes of at most micro_rows. Where weights are cut, a process with
        fewer passes than another makes empty ones."""
        maker = self.late if self.late is not None and step >= self.late_from(train) else self.train
        share = ranks.local_rows(len(rows))
        size = train.micro_rows or max(1, len(share))
        batches = []
        for start in range(0, len(share), size):
            places = share[start : start + size]
            batches.append(maker.make(rows[places], [(step, int(place)) for place in places], seed))
        if ranks.mesh is not None:
            for _ in range(ranks.num_micro_batches(len(rows), train.micro_rows) - len(batches)):
                batches.append(maker.make(rows[:1], [(step, 0)], seed).emptied())
        return batches

    def latent_limit(self) -> float:
        """Largest absolute normalised value among (at most 4,096) latents: samplers hold x_0 inside it."""
        scale = LatentScale(self.content.channel_mean, self.content.channel_std)
        limit = 0.0
        images = np.concatenate([maker.table.images for maker in (self.train, self.heldout, self.late) if maker])
        for grid, reader in enumerate(self.readers):
            used = np.unique(images[images[:, 4] == grid, 3])
            if not len(used):
                continue
            rows = used[np.unique(np.linspace(0, len(used) - 1, min(len(used), 4096)).astype(np.int64))]
            normal = scale.normalise(torch.from_numpy(reader.read(rows)[:, 0]).float())
            limit = max(limit, float(normal[torch.isfinite(normal)].abs().max()))
        return limit


@torch.no_grad()
def _heldout_losses(state: TrainState, data: Data, train: TrainConfig, seed: int) -> tuple[dict[str, float], list[int]]:
    """The losses by name, and the held-out rows whose loss is not finite. With the weights that sampling will use, and the same
    noise at every measurement; the loss of images also by quarters of the noise levels: `image_loss_t25` is that of the quarter
    next to clean. Each process takes every `count`-th row, and as many as the others: an empty one at the end where rows are
    short."""
    ranks = state.ranks
    num_rows = min(train.eval_rows, data.content.heldout_rows)
    text_sum, image_sum, num_targets, num_images = 0.0, 0.0, 0.0, 0.0
    level_sums, level_counts = torch.zeros(_LEVELS), torch.zeros(_LEVELS)
    bad = [0.0] * num_rows
    with averaged_weights(state.model, state.ema), autocast(ranks.device, train.precision):
        for first in range(0, num_rows, ranks.count):
            row = first + ranks.index
            batch = data.heldout.make(np.array([min(row, num_rows - 1)]), [("heldout", row)], seed)
            batch = batch if row < num_rows else batch.emptied()
            sums = loss_sums(state.model, batch.to(ranks.device, train.attention))
            text, image_loss = sums.text.item(), sums.image.item()
            if row < num_rows:
                bad[row] = float(not math.isfinite(text + image_loss))
            text_sum, image_sum = text_sum + text, image_sum + image_loss
            num_targets, num_images = num_targets + len(batch.targets), num_images + batch.num_images
            for image, errors in zip(batch.inputs.images, sums.noise_errors, strict=True):
                levels = (image.t_I - 1) * _LEVELS // data.num_times
                level_sums.index_add_(0, levels, errors.float().cpu())
                level_counts += torch.bincount(levels, minlength=_LEVELS)
        reshard(state.model)
    text_sum, image_sum, num_targets, num_images = ranks.all_reduce_sum([text_sum, image_sum, num_targets, num_images])
    sums_by_level, counts_by_level = (
        ranks.all_reduce_sum(level_sums.tolist()),
        ranks.all_reduce_sum(level_counts.tolist()),
    )
    by_level = {
        f"image_loss_t{100 * (level + 1) // _LEVELS}": total / count
        for level, (total, count) in enumerate(zip(sums_by_level, counts_by_level, strict=True))
        if count
    }
    means = text_sum / max(1, num_targets), image_sum / max(1, num_images)
    bad_rows = [row for row, is_bad in enumerate(ranks.all_reduce_sum(bad)) if is_bad] if num_rows else []
    return _measured(means[0], num_targets, means[1], num_images) | by_level, bad_rows


def _measured(text: float, num_targets: float, image: float, num_images: float) -> dict[str, float]:
    """The losses by name; none of what was not there to be measured."""
    return ({"text_loss": text} if num_targets else {}) | ({"image_loss": image} if num_images else {})


def _rows_of(passes: list[Tensor], rows: Any, train: TrainConfig, ranks: Ranks) -> Any:
    """The rows of those forward passes, of all processes, whose loss is not finite; all rows where only gradients are."""
    share = ranks.local_rows(len(rows))
    size = train.micro_rows or max(1, len(share))
    bad = np.zeros(len(rows))
    for number, losses in enumerate(passes):
        bad[share[number * size : (number + 1) * size]] = not bool(losses.isfinite().all())
    marked = np.array(ranks.all_reduce_sum(bad.tolist())) > 0
    return rows[marked] if marked.any() else rows


def _content(
    model: ModelConfig, diffusion: DiffusionConfig, train: TrainConfig, data: Data, parameters: int
) -> CheckpointContent:
    grid = data.content.grids[0]
    return CheckpointContent(
        model=json.loads(model.model_dump_json()),
        diffusion=json.loads(diffusion.model_dump_json()),
        vocab_size=data.facts.vocab_size,
        latent_channels=data.facts.latent_channels,
        patch_side=data.facts.patch_side,
        latent_height=grid.height,
        latent_width=grid.width,
        picture_size=data.content.picture_size,
        channel_mean=data.content.channel_mean,
        channel_std=data.content.channel_std,
        latent_limit=data.latent_limit(),
        row_length=data.content.row_length,
        has_ema=train.ema_decay > 0,
        parameters=parameters,
        steps=train.steps,
    )
