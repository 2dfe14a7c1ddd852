"""The rows that a training reads: sides of Sequences, the latents that they refer to, and the micro-batches of each step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from stages.artifacts.latents import Latents
from stages.artifacts.sequences import Sequences, Side, measured_latents
from stages.coders.scale import LatentScale
from stages.diffusion.config import DiffusionConfig
from stages.diffusion.process import Diffusion
from stages.model.config import ModelConfig
from stages.model.transformer import ModelDims
from stages.train_model.batches import Batch, BatchMaker, rows_of_step
from stages.train_model.config import TrainConfig
from stages.train_model.distributed.ranks import Ranks
from stages.train_model.finetune import Start


class Data:
    """Batch makers over the training, held-out and late rows (late: for the end of a training, None where there are none).

    content: of the Sequences. dims: the model's input and output sizes. psnr: of the autoencoder, in dB, as encode measured it;
    infinite where it was not measured. num_times: T of the diffusion process.
    """

    def __init__(
        self, folder: Path, diffusion: DiffusionConfig, model: ModelConfig, start: Start | None = None
    ) -> None:
        """folder: of the Sequences. start: the checkpoint that is fine-tuned, whose latent statistics are used."""
        sequences = Sequences.open(folder)
        self.content = start.rescaled(sequences.content) if start else sequences.content
        latents = Latents.open(sequences.latents_folder())
        self.psnr = float(latents.manifest.stats.get("psnr_check", math.inf))
        self.readers = tuple(latents.rows(grid) for grid in range(len(self.content.grids)))
        self.dims = ModelDims(self.content.vocab_size, self.content.latent_channels, self.content.patch_side)
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
                limited_images=diffusion.limited_images,
                weighting=diffusion.weighting,
                bidirectional=bidirectional,
                clean_context=diffusion.context_images == "clean",
                noise_draws=1 if side == "heldout" else diffusion.noise_draws,
                prompt_weight=diffusion.prompt_weight,
                stratified_times=diffusion.stratified_times and side != "heldout",
            )

        self.train, self.heldout = maker("train"), maker("heldout")
        self.late = maker("late") if self.content.late_rows else None

    def rows(self, train: TrainConfig, step: int, seed: int) -> Any:
        """The rows of the global batch of a step, shape (batch_rows,): training rows, and from `late_from` on late rows."""
        first = self.late_from(train)
        if step >= first:
            return rows_of_step(self.content.late_rows, train.batch_rows, seed, step - first)
        return rows_of_step(self.content.num_rows, train.batch_rows, seed, step)

    def late_from(self, train: TrainConfig) -> int:
        """The first step of the late phase; train.steps where there is none."""
        return train.steps - (math.ceil(train.late_share * train.steps) if self.late else 0)

    def batches(self, train: TrainConfig, rows: Any, step: int, seed: int, ranks: Ranks) -> list[Batch]:
        """The micro-batches of this rank, of at most train.micro_rows rows. With sharded weights, a rank with fewer micro-batches
        than another gets empty ones in addition.

        Args:
            train: the recipe section.
            rows: of the global batch of the step.
            step: from 0.
            seed: of the recipe; with the step and the index in the batch it determines all random draws.
            ranks: this rank among all.
        """
        maker = self.late if self.late is not None and step >= self.late_from(train) else self.train
        local = ranks.local_rows(len(rows))
        size = train.micro_rows or max(1, len(local))
        batches = []
        for start in range(0, len(local), size):
            indices = local[start : start + size]
            batches.append(maker.make(rows[indices], [(step, int(index)) for index in indices], seed))
        if ranks.mesh is not None:
            for _ in range(ranks.num_micro_batches(len(rows), train.micro_rows) - len(batches)):
                batches.append(maker.make(rows[:1], [(step, 0)], seed).emptied())
        return batches

    def latent_limit(self) -> float:
        """Largest absolute normalised value of the latents that are trained on (`measured_latents`): samplers clip x0 to it."""
        scale = LatentScale(self.content.channel_mean, self.content.channel_std)
        limit = 0.0
        tables = [maker.table for maker in (self.train, self.late) if maker]
        for grid, rows in measured_latents(tables, self.readers[0].shard_rows):
            normal = scale.normalise(torch.from_numpy(self.readers[grid].read(rows)[:, 0]).float())
            limit = max(limit, float(normal[torch.isfinite(normal)].abs().max()))
        return limit
