"""One shard of Latents: which pictures and documents belong to it, and how they become its files.

Everything that a shard needs can be pickled, so that it can be encoded anywhere; nothing here knows of other shards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.artifacts.latents import ARRAYS, DOCUMENTS
from stages.coders.config import Images
from stages.coders.pictures import PictureReader
from stages.coders.pixels import Pixels
from stages.coders.vae import Vae, load_vae
from stages.core.files import write_jsonl
from stages.core.runtime import Runtime
from stages.encode_images.config import EncodeConfig
from stages.encode_images.encoder import Encoder
from stages.encode_images.failures import Failures
from stages.encode_images.rows import ShardRows, pack_grids
from stages.sources.document import Document, ImageSegment, Omission, Source, TextSegment

Record = dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """Rows first_row .. first_row + len(images) and the documents whose first row (or place) lies among them."""

    number: int
    first_row: int
    images: list[tuple[str, ImageSegment]]  # key of the document, image
    documents: list[tuple[int, Document]]  # first row of the document, document
    omissions: list[Omission]


@dataclass(frozen=True)
class Job:
    """What every shard of a run has in common. model: the autoencoder's folder; folder: of the artifact that grows."""

    model: Path
    images: Images
    encode: EncodeConfig
    folder: Path
    latent_channels: int
    downsampling: int
    device: str

    def load(self) -> Vae:
        return load_vae(self.model, device=self.device, precision=self.encode.precision, compiled=self.encode.compile)

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width in latent pixels of each base grid; with mirror, as many grids of mirrored pictures follow."""
        return [(height // self.downsampling, width // self.downsampling) for height, width in self.images.shapes()]

    @property
    def num_grids(self) -> int:
        return len(self.sizes()) * (2 if self.encode.mirror else 1)

    def array(self, grid: int) -> Path:
        """Where the rows of a grid (base or mirrored) lie."""
        sizes = self.sizes()
        height, width = sizes[grid % len(sizes)]
        return self.folder / ARRAYS / f"{height}x{width}{'-mirrored' if grid >= len(sizes) else ''}"

    def row_shape(self, grid: int) -> tuple[int, int, int, int]:
        sizes = self.sizes()
        return (2, self.latent_channels, *sizes[grid % len(sizes)])


def num_shards(num_images: int, encode: EncodeConfig) -> int:
    return -(-num_images // encode.shard_rows)


def cut_shards(source: Source, size: int) -> Iterator[Shard]:
    """The source cut into shards of `size` rows. A document lies in the shard of its first row, one without images in
    the shard of the row before it; omissions lie where the source reports them."""
    shard = Shard(0, 0, [], [], [])
    row = 0
    for item in source.documents():
        if isinstance(item, Omission):
            shard.omissions.append(item)
            continue
        if item.images and len(shard.images) == size:
            yield shard
            shard = Shard(shard.number + 1, row, [], [], [])
        shard.documents.append((row, item))
        for image in item.images:
            if len(shard.images) == size:
                yield shard
                shard = Shard(shard.number + 1, row, [], [], [])
            shard.images.append((item.key, image))
            row += 1
    yield shard


def encode_shard(
    job: Job, shard: Shard, encoder: Encoder, reader: PictureReader, failures: Failures, runtime: Runtime
) -> Record:
    """Decode, encode and write one shard; returns its facts (counts, sums, reasons, files)."""
    rows = ShardRows(job, len(shard.images))
    errors: list[dict[str, Any]] = [dict(vars(omission)) for omission in shard.omissions]
    notes: Counter[str] = Counter()
    shapes = job.images.shapes()
    waiting: list[list[tuple[int, Pixels]]] = [[] for _ in shapes]  # for each grid

    def fail(place: int, reason: str, message: str) -> None:
        key, image = shard.images[place]
        row = shard.first_row + place
        errors.append({"key": key, "path": image.name, "reason": reason, "message": message, "row": row})
        failures.saw(0, errors[-1:])

    def flush(grid: int) -> None:
        """A batch holds the same rows whatever the number of workers, and is always full: the autoencoder rounds by its size."""
        batch = np.zeros((job.encode.batch_size, *shapes[grid], 3), dtype=np.uint8)
        for number, (_, pixels) in enumerate(waiting[grid]):
            batch[number] = pixels
        encoder.give((grid, [place for place, _ in waiting[grid]]), batch)
        waiting[grid].clear()

    def collect(*, all_of_them: bool = False) -> None:
        for (grid, places), variants in encoder.take(all_of_them=all_of_them):
            runtime.interrupts.check()
            for number, place in enumerate(places):
                if rows.put(place, grid, [(mean[number], deviation[number]) for mean, deviation in variants]):
                    failures.saw(1, [])
                else:
                    why = "the autoencoder gave numbers that are not finite, or too large for encode.dtype"
                    fail(place, "LATENT_NONFINITE", why)

    pictures = (image.picture for _, image in shard.images)
    for place, fitted in enumerate(reader.read(pictures)):
        notes.update(fitted.notes)
        if fitted.pixels is None:
            fail(place, fitted.reason, fitted.message)
            continue
        grid = shapes.index(fitted.pixels.shape[:2])
        waiting[grid].append((place, fitted.pixels))
        if len(waiting[grid]) == job.encode.batch_size:
            flush(grid)
            collect()
    for grid in range(len(shapes)):
        if waiting[grid]:
            flush(grid)
    collect(all_of_them=True)
    documents = f"{DOCUMENTS}/{shard.number:05d}.jsonl"
    files = [documents, *rows.write(shard.number)]
    write_jsonl(job.folder / documents, (_document_row(row, item) for row, item in shard.documents))
    return {
        "shard": shard.number,
        "files": files,
        "good": int(rows.good.sum()),
        "failed": int((~rows.good).sum()),
        "errors": sorted(errors, key=lambda error: error.get("row", -1)),
        "notes": dict(notes),
        "grids": pack_grids(rows.grids),
        **rows.sums(),
    }


def _document_row(first_row: int, document: Document) -> dict[str, Any]:
    segments: list[dict[str, Any]] = []
    row = first_row
    for segment in document.segments:
        if isinstance(segment, TextSegment):
            segments.append({"text": segment.text})
            continue
        segments.append({"image": row, "name": segment.name})
        row += 1
    return {
        "key": document.key,
        "group": document.group,
        "fixed_order": document.fixed_order,
        "heldout": document.heldout,
        "facts": document.facts,
        "segments": segments,
    }
