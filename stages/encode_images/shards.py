"""One shard of Latents: how its pictures become rows.

Everything that a shard needs can be pickled, so that it can be encoded anywhere; nothing here knows of other shards.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from stages.coders.pixels import Pixels
from stages.core.runtime import Runtime
from stages.encode_images.config import EncodeConfig
from stages.encode_images.cutting import Shard, documents_file
from stages.encode_images.encoder import Encoded, Encoder
from stages.encode_images.job import Job
from stages.encode_images.rows import ShardRows, pack_grids
from stages.sources.decoding import PictureReader
from stages.sources.failures import Failures

Record = dict[str, Any]


def num_shards(num_images: int, encode: EncodeConfig) -> int:
    return -(-num_images // encode.shard_rows)


def encode_shards(
    job: Job, shards: Iterable[Shard], encoder: Encoder, reader: PictureReader, failures: Failures, runtime: Runtime
) -> Iterator[tuple[Shard, Record]]:
    """Decode, encode and write shards; yields each with its facts (counts, sums, reasons, files). The next shard is decoded
    while the batches of the one before are on their way and its files are written.

    failures: of reading. Those of the autoencoder are counted apart, batch by batch: a batch comes back the later the more
    cores there are, and whether a run is stopped must not depend on that.
    """
    under_way: deque[_Work] = deque()
    not_encoded = Failures(job.encode.max_bad, job.encode.bad_window)

    def collect(*, all_of_them: bool = False) -> Iterator[tuple[Shard, Record]]:
        for (work, grid, indices), variants in encoder.take(all_of_them=all_of_them):
            runtime.interrupts.check()
            work.store(grid, indices, variants)
        while under_way and under_way[0].done:
            work = under_way.popleft()
            yield work.shard, work.finish()

    for shard in shards:
        work = _Work(job, shard, failures, not_encoded)
        under_way.append(work)
        for grid, indices, batch in work.batches(reader):
            encoder.give((work, grid, indices), batch)
            yield from collect()
    yield from collect(all_of_them=True)


class _Work:
    """A shard between its first picture and its record."""

    def __init__(self, job: Job, shard: Shard, not_read: Failures, not_encoded: Failures) -> None:
        self.job = job
        self.shard = shard
        self.done = False
        self._not_read = not_read
        self._not_encoded = not_encoded
        self._rows = ShardRows(job, len(shard.images))
        self._errors: list[dict[str, Any]] = [dict(vars(omission)) for omission in shard.omissions]
        self._notes: Counter[str] = Counter()
        self._missing = len(shard.images)

    def batches(self, reader: PictureReader) -> Iterator[tuple[int, list[int], Pixels]]:
        """Decode the pictures; yields (grid, indices in the shard, batch). A batch holds the same rows whatever the number of
        workers, and is always full, as the autoencoder rounds by its size."""
        shapes = self.job.images.shapes()
        waiting: list[list[tuple[int, Pixels]]] = [[] for _ in shapes]  # for each grid
        pictures = (image.picture for _, image in self.shard.images)
        for index, fitted in enumerate(reader.read(pictures)):
            self._notes.update(fitted.notes)
            if fitted.pixels is None:
                self._fail(index, fitted.reason, fitted.message, self._not_read)
                continue
            self._not_read.saw(1, [])
            grid = shapes.index(fitted.pixels.shape[:2])
            waiting[grid].append((index, fitted.pixels))
            if len(waiting[grid]) == self.job.encode.batch_size:
                yield self._batch(grid, waiting[grid])
                waiting[grid] = []
        for grid, left in enumerate(waiting):
            if left:
                yield self._batch(grid, left)
        self.done = self._missing == 0

    def store(self, grid: int, indices: list[int], variants: Encoded) -> None:
        """What became of a batch."""
        for number, index in enumerate(indices):
            if self._rows.store(index, grid, [(mean[number], std[number]) for mean, std in variants]):
                self._not_encoded.saw(1, [])
                self._missing -= 1
            else:
                why = "the autoencoder gave numbers that are not finite, or too large for encode.dtype"
                self._fail(index, "LATENT_NONFINITE", why, self._not_encoded)
        self.done = self._missing == 0

    def finish(self) -> Record:
        """Write the rows; the documents are there since the shard was cut."""
        files = [documents_file(self.shard.number), *self._rows.write(self.shard.number)]
        good = int(self._rows.good.sum())
        return {
            "shard": self.shard.number,
            "files": files,
            "good": good,
            "failed": len(self.shard.images) - good,
            "errors": sorted(self._errors, key=lambda error: error.get("row", -1)),
            "notes": dict(self._notes),
            "grids": pack_grids(self._rows.grids),
            **self._rows.sums(),
        }

    def _batch(self, grid: int, pictures: list[tuple[int, Pixels]]) -> tuple[int, list[int], Pixels]:
        batch = np.zeros((self.job.encode.batch_size, *self.job.images.shapes()[grid], 3), dtype=np.uint8)
        for number, (_, pixels) in enumerate(pictures):
            batch[number] = pixels
        return grid, [index for index, _ in pictures], batch

    def _fail(self, index: int, reason: str, message: str, failures: Failures) -> None:
        key, image = self.shard.images[index]
        row = self.shard.first_row + index
        self._errors.append({"key": key, "path": image.name, "reason": reason, "message": message, "row": row})
        self._missing -= 1
        failures.saw(0, self._errors[-1:])
