"""The rows of one shard while it is encoded: pictures go in, arrays and their sums come out."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.artifacts.arrays import write_shard
from stages.coders.vae import Floats
from stages.encode_images.job import Job


class ShardRows:
    """The rows of one shard in each grid, NaN where a picture is not in it."""

    def __init__(self, job: Job, count: int) -> None:
        self.job = job
        self.count = count
        self.good = np.zeros(count, dtype=bool)
        self.grids = np.zeros(count, dtype=np.uint8)
        self._values: dict[int, np.ndarray[Any, Any]] = {}

    def store(self, index: int, grid: int, variants: list[tuple[Floats, Floats]]) -> bool:
        """Store a picture as it is and, where wanted, mirrored; False if a number is not finite in the stored type."""
        with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite, and is refused
            stored = [np.stack(pair).astype(self.job.encode.dtype) for pair in variants]
        if not all(np.isfinite(row).all() for row in stored):
            return False
        for number, row in enumerate(stored):
            self._of(grid + number * len(self.job.sizes()))[index] = row
        self.grids[index] = grid
        self.good[index] = True
        return True

    def write(self, shard: int) -> list[str]:
        """Write the shard of each grid that has a picture in it; the names of the files."""
        if not self.good.all():
            # A picture that failed keeps a NaN mean and a standard deviation of 0: zarr leaves a chunk of nothing but its fill
            # value out of the shard (write_empty_chunks does not reach inside), and a row that is missing is a sign of damage.
            self._of(0)[~self.good, 1] = 0
        files = []
        for grid, values in sorted(self._values.items()):
            files.append(write_shard(self.job.array(grid), shard, values).relative_to(self.job.folder).as_posix())
        return files

    def sums(self) -> dict[str, Any]:
        """Sums over latent pixels of posterior draws, of pictures that are not mirrored: values, sum and sum of squares."""
        channels = self.job.latent_channels
        count, total, square = 0, np.zeros(channels), np.zeros(channels)
        for grid in range(len(self.job.sizes())):
            kept = self.good & (self.grids == grid)
            if kept.any():
                values = self._of(grid)[kept].astype(np.float64)
                count += values[:, 0, 0].size
                total += values[:, 0].sum((0, 2, 3))
                square += (values[:, 0] ** 2 + values[:, 1] ** 2).sum((0, 2, 3))
        return {"values": count, "sum": total.tolist(), "square": square.tolist()}

    def _of(self, grid: int) -> np.ndarray[Any, Any]:
        if grid not in self._values:
            shape = (self.count, *self.job.row_shape(grid))
            self._values[grid] = np.full(shape, np.nan, dtype=self.job.encode.dtype)
        return self._values[grid]


def pack_grids(grids: np.ndarray[Any, Any]) -> str:
    """A character for the grid of each row: records of a hundred million pictures are held in memory together."""
    return bytes(grids + np.uint8(ord("A"))).decode("latin-1")


def unpack_grids(record: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The inverse of `pack_grids`, of the record of a shard."""
    return np.frombuffer(record["grids"].encode("latin-1"), dtype=np.uint8) - np.uint8(ord("A"))
