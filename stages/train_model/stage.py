"""Train the transformer: Sequences + Latents -> Checkpoint. `run` is the program, read from top to bottom."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.artifacts.checkpoint import METRICS, STATE, TIMING, CheckpointContent
from stages.artifacts.folder import Build
from stages.artifacts.latents import Latents
from stages.artifacts.sequences import Sequences
from stages.coders.scale import LatentScale
from stages.core.device import autocast, resolve_device
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note, Progress
from stages.core.files import read_jsonl, write_jsonl
from stages.core.runtime import Runtime
from stages.core.seeds import torch_generator
from stages.diffusion.config import DiffusionConfig
from stages.diffusion.process import Diffusion
from stages.model.config import ModelConfig
from stages.model.transformer import DataFacts, Transfusion
from stages.train_model.batches import Batch, BatchMaker, rows_of_step
from stages.train_model.config import TrainConfig
from stages.train_model.objective import loss_sums
from stages.train_model.optimisation import averaged_weights, build_optimizers, learning_rate, update_average
from stages.train_model.saves import TrainState, complete_saves, read_state, save, write_state
from stages.train_model.start import Start

_LEVELS = 4  # quarters of the noise levels, in held-out losses


def run(
    model: ModelConfig,
    diffusion: DiffusionConfig,
    train: TrainConfig,
    sequences: Path,
    build: Build,
    runtime: Runtime,
    seed: int,
) -> None:
    """Train, save on the way, seal at the end. The same command after a kill goes on from the last save.

    Raises TfcliError: DIVERGED on a non-finite loss or gradient (before the optimizer step), TERMINATED or INTERRUPTED
    after a signal, with the state saved.
    """
    device = resolve_device(runtime.device)
    start = Start.open(train.start_from, model, diffusion, Sequences.open(sequences)) if train.start_from else None
    data = Data(sequences, diffusion, model, start)
    network = Transfusion(model, data.facts)
    network.initialise(torch_generator(seed, "weights"))
    if start is not None:
        network.load_state_dict(start.weights(), strict=True)
        runtime.report(Note(f"starting from {train.start_from}; latents are normalised as they were there"))
    network.to(device)
    average = {name: weight.detach().clone() for name, weight in network.named_parameters()} if train.ema_decay else {}
    state = TrainState(network, build_optimizers(network, train), average)
    saves = build.folder / "saves"
    metrics, timing = _Log(build.folder / METRICS), _Log(build.folder / TIMING)
    found = [*complete_saves(saves), *([build.folder] if (build.folder / STATE).exists() else [])]
    if found:
        read_state(found[-1], state)
        runtime.report(Note(f"going on from step {state.step}"))
    metrics.cut(state.step)
    timing.cut(state.step)
    parameters = sum(weight.numel() for weight in network.parameters())
    runtime.report(Note(f"{parameters / 1e6:.2f} M parameters on {device}, {train.precision}"))

    tick, shown = time.perf_counter(), state.step
    elements = 0
    while True:
        done = state.step >= train.steps
        if done or state.step % train.eval_every == 0:
            metrics.add(state.step, "heldout_", _heldout_losses(state, data, train, device, seed))
        if not done and state.step > 0 and (state.step % train.save_every == 0 or runtime.interrupts.requested):
            metrics.flush()
            timing.flush()
            save(saves, state, train.keep_saves)
        if done:
            break
        runtime.interrupts.check(f"state saved at step {state.step}")

        rows = rows_of_step(data.content.num_rows, train.batch_rows, seed, state.step)
        batches = data.batches(train, rows, state.step, seed)
        num_targets = sum(len(batch.targets) for batch in batches)
        num_images = sum(batch.num_images for batch in batches)
        text_loss, image_loss = 0.0, 0.0
        for batch in batches:
            with autocast(device, train.precision):
                sums = loss_sums(network, batch.to(device, train.attention))
                loss = sums.text / max(1, num_targets)
                loss = loss + diffusion.image_weight * sums.weighted_image / max(1, num_images)
            loss.backward()
            text_loss += sums.text.item() / max(1, num_targets)
            image_loss += sums.image.item() / max(1, num_images)
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), train.clip_norm).item()
        _require_finite(state.step, text_loss, image_loss, norm, rows)
        rate = learning_rate(state.step, train)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        update_average(state.ema, network, state.step, train.ema_decay)
        state.step += 1

        elements += sum(batch.num_elements for batch in batches)
        if state.step % train.log_every == 0 or state.step == train.steps:
            losses = {"text_loss": text_loss, "image_loss": image_loss, "grad_norm": norm, "learning_rate": rate}
            metrics.add(state.step, "", losses)
            now = time.perf_counter()
            speed = elements / (now - tick)
            timing.add(state.step, "", {"seconds": (now - tick) / (state.step - shown), "elements_per_second": speed})
            tick, shown, elements = now, state.step, 0
            fields = {"text": f"{text_loss:.3f}", "image": f"{image_loss:.3f}", "el/s": f"{speed:,.0f}"}
            runtime.report(Progress("train", state.step, train.steps, "steps", fields))

    metrics.flush()
    timing.flush()
    if not (build.folder / STATE).exists():
        write_state(build.folder, state)
    shutil.rmtree(saves, ignore_errors=True)
    stats = {"losses": metrics.last(), "parameters": parameters, "start_from": start.facts() if start else None}
    build.seal(_content(model, diffusion, train, data, parameters).model_dump(), stats, volatile=(TIMING,))


class Data:
    """The two splits of Sequences and the latents behind them."""

    def __init__(
        self, folder: Path, diffusion: DiffusionConfig, model: ModelConfig, start: Start | None = None
    ) -> None:
        sequences = Sequences.open(folder)
        self.content = start.rescaled(sequences.content) if start else sequences.content
        latents = Latents.open(sequences.latents_folder())
        self.readers = tuple(latents.rows(grid) for grid in range(len(self.content.grids)))
        self.facts = DataFacts(self.content.vocab_size, self.content.latent_channels, self.content.patch_side)
        process = Diffusion(diffusion.schedule, diffusion.target, diffusion.times)
        self.num_times = process.num_steps
        bidirectional = model.image_attention == "bidirectional"
        self.train, self.heldout = (
            BatchMaker(
                sequences.split(name),
                self.content,
                self.readers,
                process,
                noise_limit=diffusion.noise_limit,
                weighting=diffusion.weighting,
                bidirectional=bidirectional,
                clean_context=diffusion.context_images == "clean",
            )
            for name in ("train", "heldout")
        )

    def batches(self, train: TrainConfig, rows: Any, step: int, seed: int) -> list[Batch]:
        """The rows of a step, cut into forward passes of at most micro_rows."""
        names: list[tuple[int | str, ...]] = [(step, place) for place in range(len(rows))]
        size = train.micro_rows or len(rows)
        starts = range(0, len(rows), size)
        return [self.train.make(rows[start : start + size], names[start : start + size], seed) for start in starts]

    def latent_limit(self) -> float:
        """Largest absolute normalised value among (at most 4,096) latents: samplers hold x_0 inside it."""
        scale = LatentScale(self.content.channel_mean, self.content.channel_std)
        limit = 0.0
        images = np.concatenate([maker.table.images for maker in (self.train, self.heldout)])
        for grid, reader in enumerate(self.readers):
            used = np.unique(images[images[:, 4] == grid, 3])
            if not len(used):
                continue
            rows = used[np.unique(np.linspace(0, len(used) - 1, min(len(used), 4096)).astype(np.int64))]
            normal = scale.normalise(torch.from_numpy(reader.read(rows)[:, 0]).float())
            limit = max(limit, float(normal[torch.isfinite(normal)].abs().max()))
        return limit


@torch.no_grad()
def _heldout_losses(
    state: TrainState, data: Data, train: TrainConfig, device: torch.device, seed: int
) -> dict[str, float]:
    """Losses on held-out rows with the weights that sampling will use, and the same noise at every measurement; that of
    images also by quarters of the noise levels: `image_loss_t25` is that of the quarter next to clean."""
    num_rows = min(train.eval_rows, data.content.heldout_rows)
    text_sum, image_sum, num_targets, num_images = 0.0, 0.0, 0, 0
    level_sums, level_counts = torch.zeros(_LEVELS), torch.zeros(_LEVELS)
    with averaged_weights(state.model, state.ema), autocast(device, train.precision):
        for row in range(num_rows):
            batch = data.heldout.make(np.array([row]), [("heldout", row)], seed)
            sums = loss_sums(state.model, batch.to(device, train.attention))
            text_sum, image_sum = text_sum + sums.text.item(), image_sum + sums.image.item()
            num_targets, num_images = num_targets + len(batch.targets), num_images + batch.num_images
            for image, errors in zip(batch.inputs.images, sums.noise_errors, strict=True):
                levels = (image.t_I - 1) * _LEVELS // data.num_times
                level_sums.index_add_(0, levels, errors.float().cpu())
                level_counts += torch.bincount(levels, minlength=_LEVELS)
    by_level = {
        f"image_loss_t{100 * (level + 1) // _LEVELS}": total / count
        for level, (total, count) in enumerate(zip(level_sums.tolist(), level_counts.tolist(), strict=True))
        if count
    }
    return {"text_loss": text_sum / max(1, num_targets), "image_loss": image_sum / max(1, num_images), **by_level}


def _require_finite(step: int, text: float, image: float, norm: float, rows: Any) -> None:
    if np.isfinite([text, image, norm]).all():
        return
    raise TfcliError(
        f"training diverged at step {step}",
        why=f"text loss {text:.4g}, image loss {image:.4g}, gradient norm {norm:.4g}; rows {rows.tolist()[:8]}",
        fix="lower train.learning_rate or raise train.warmup_steps; the last save is from before this step",
        code=ExitCode.DIVERGED,
    )


@dataclass
class _Log:
    """A JSONL log that is rewritten whole at each save, so that it never holds steps that the weights do not."""

    path: Path
    rows: list[dict[str, Any]] | None = None

    def cut(self, step: int) -> None:
        """Read what an earlier process left and drop the lines after `step`."""
        self.rows = []
        if self.path.exists():
            self.rows = [row for row in read_jsonl(self.path) if row["step"] <= step]

    def add(self, step: int, prefix: str, values: dict[str, float]) -> None:
        assert self.rows is not None
        row = {"step": step, **{f"{prefix}{name}": value for name, value in values.items()}}
        if row not in self.rows[-3:]:  # a resumed run measures the step it was saved at once more
            self.rows.append(row)

    def flush(self) -> None:
        write_jsonl(self.path, self.rows or [])

    def last(self) -> dict[str, float]:
        """The newest value of every name."""
        newest: dict[str, float] = {}
        for row in self.rows or []:
            newest.update(row)
        return newest


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
