"""Losses on held-out rows, with the weights that sampling uses and the same noise at every measurement."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from stages.core.device import autocast
from stages.train_model.checkpointing import TrainState
from stages.train_model.config import TrainConfig
from stages.train_model.data import Data
from stages.train_model.distributed.ranks import Ranks, reshard
from stages.train_model.objective import LossSums, loss_sums, named_losses
from stages.train_model.optimizer import averaged_weights

_QUARTERS = 4  # of the noise levels


@torch.no_grad()
def heldout_losses(state: TrainState, data: Data, train: TrainConfig, seed: int) -> tuple[dict[str, float], list[int]]:
    """The mean losses by metric name, and the held-out rows whose loss is not finite.

    The image loss is also reported by quarters of the noise levels: `image_loss_t25` is that of the quarter closest to clean.
    Each rank measures every `count`-th row and as many batches as the others, an empty one at the end where rows are missing.

    Args:
        state: the model, its running average and this rank.
        data: the held-out rows.
        train: eval_rows, precision and attention.
        seed: of the recipe.
    """
    ranks = state.ranks
    num_rows = min(train.eval_rows, data.content.heldout_rows)
    totals = _Totals(num_rows, data.num_times)
    with averaged_weights(state.model, state.ema), autocast(ranks.device, train.precision):
        for first in range(0, num_rows, ranks.count):
            row = first + ranks.index
            batch = data.heldout.make(np.array([min(row, num_rows - 1)]), [("heldout", row)], seed)
            batch = batch if row < num_rows else batch.emptied()
            sums = loss_sums(state.model, batch.to(ranks.device, train.attention))
            totals.add(row, len(batch.targets), [image.t_I for image in batch.inputs.images], sums)
        reshard(state.model)
    return totals.over_ranks(ranks)


class _Totals:
    """Sums and counts over the held-out rows of this rank."""

    def __init__(self, num_rows: int, num_times: int) -> None:
        """num_times: T, the largest t."""
        self.num_times = num_times
        self.sums = [0.0, 0.0, 0.0, 0.0]  # text loss, image loss, text targets, images
        self.quarter_sums, self.quarter_counts = torch.zeros(_QUARTERS), torch.zeros(_QUARTERS)
        self.bad = [0.0] * num_rows  # 1 for a row whose loss is not finite

    def add(self, row: int, num_targets: int, timesteps: list[Tensor], sums: LossSums) -> None:
        """Add one row. timesteps: t of the images, shape (I,) for each grid, on CPU."""
        text, image = sums.text.item(), sums.image.item()
        if row < len(self.bad):
            self.bad[row] = float(not math.isfinite(text + image))
        num_images = sum(len(t_I) for t_I in timesteps)
        self.sums = [total + new for total, new in zip(self.sums, (text, image, num_targets, num_images), strict=True)]
        for t_I, errors_I in zip(timesteps, sums.eps_mse, strict=True):
            quarters = (t_I - 1) * _QUARTERS // self.num_times
            self.quarter_sums.index_add_(0, quarters, errors_I.float().cpu())
            self.quarter_counts += torch.bincount(quarters, minlength=_QUARTERS)

    def over_ranks(self, ranks: Ranks) -> tuple[dict[str, float], list[int]]:
        """Means over the rows of all ranks by metric name, and the rows whose loss is not finite."""
        text, image, num_targets, num_images = ranks.all_reduce_sum(self.sums)
        quarter_sums = ranks.all_reduce_sum(self.quarter_sums.tolist())
        quarter_counts = ranks.all_reduce_sum(self.quarter_counts.tolist())
        by_quarter = {
            f"image_loss_t{100 * (quarter + 1) // _QUARTERS}": total / count
            for quarter, (total, count) in enumerate(zip(quarter_sums, quarter_counts, strict=True))
            if count
        }
        bad_rows = [row for row, is_bad in enumerate(ranks.all_reduce_sum(self.bad)) if is_bad] if self.bad else []
        text, image = text / max(1, num_targets), image / max(1, num_images)
        return named_losses(text, num_targets, image, num_images) | by_quarter, bad_rows
