"""Mean and standard deviation of the latents' channels, over pictures that are trained on: what normalises them.

They are measured here and not where latents are made, since the split into sides is drawn here.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stages.artifacts.latents import Latents
from stages.artifacts.sequences import RowTable, measured_latents

_AT_ONCE = 256  # rows of latents that are in memory together


def channel_statistics(latents: Latents, tables: Iterable[RowTable]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of draws from the posterior N(m, s^2): the means of m, and of m^2 + s^2.

    Without a picture they are 0 and 1. tables: of the sides that a model is trained on.
    """
    channels = latents.content.latent_channels
    count, total, square = 0, np.zeros(channels), np.zeros(channels)
    for grid, rows in measured_latents(tables, latents.content.shard_rows):
        for start in range(0, len(rows), _AT_ONCE):
            stored = latents.rows(grid).read(rows[start : start + _AT_ONCE]).astype(np.float64)
            mean, std = stored[:, 0], stored[:, 1]
            count += mean[:, 0].size
            total += mean.sum((0, 2, 3))
            square += (mean**2 + std**2).sum((0, 2, 3))
    if not count:
        return [0.0] * channels, [1.0] * channels
    mean_C = total / count
    return mean_C.tolist(), np.sqrt(np.maximum(square / count - mean_C**2, 1e-12)).tolist()
