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

from stages.artifacts.arrays import write_shard
from stages.artifacts.latents import DOCUMENTS
from stages.coders.config import Images
from stages.coders.pictures import Fitted, PictureReader
from stages.coders.vae import Vae, load_vae
from stages.core.errors import ExitCode, TfcliError
from stages.core.files import write_jsonl
from stages.core.runtime import Runtime
from stages.encode_images.config import EncodeConfig
from stages.sources.document import Document, ImageSegment, Omission, Source, TextSegment
from stages.sources.text_rules import printable

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
    """What every shard of a run has in common. model: the autoencoder's folder; array: where rows go, below folder."""

    model: Path
    images: Images
    encode: EncodeConfig
    folder: Path
    array: Path
    row_shape: tuple[int, ...]
    device: str

    def load(self) -> Vae:
        return load_vae(self.model, device=self.device, precision=self.encode.precision)


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
    job: Job, shard: Shard, vae: Vae, reader: PictureReader, failures: Failures, runtime: Runtime
) -> Record:
    """Decode, encode and write one shard; returns its facts (counts, sums, reasons, files)."""
    encode = job.encode
    # A row that fails keeps a NaN mean and a deviation of 0: zarr leaves a chunk of nothing but its fill value out of the
    # shard (write_empty_chunks does not reach inside), and a row that is missing must stay a sign of damage.
    rows = np.full((len(shard.images), *job.row_shape), np.nan, dtype=encode.dtype)
    rows[:, 1] = 0
    errors: list[dict[str, Any]] = [dict(vars(omission)) for omission in shard.omissions]
    notes: Counter[str] = Counter()
    waiting: list[tuple[int, Fitted]] = []

    def fail(place: int, reason: str, message: str) -> None:
        key, image = shard.images[place]
        row = shard.first_row + place
        errors.append({"key": key, "path": image.name, "reason": reason, "message": message, "row": row})
        failures.saw(0, errors[-1:])

    def flush() -> None:
        """Encode the waiting pictures. A batch holds the same rows whatever the number of workers, and is always full: for
        a shorter one the autoencoder may take another path, which rounds by the number of threads."""
        if waiting:
            side = reader.images.size
            batch = np.zeros((encode.batch_size, side, side, 3), dtype=np.uint8)
            for row, (_, fitted) in zip(batch, waiting, strict=False):
                assert fitted.pixels is not None
                row[:] = fitted.pixels
            mean, deviation = (values[: len(waiting)] for values in vae.encode(batch))
            for (place, _), one, two in zip(waiting, mean, deviation, strict=True):
                with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite, and is refused below
                    row = np.stack([one, two]).astype(encode.dtype)
                if np.isfinite(row).all():
                    rows[place] = row
                    failures.saw(1, [])
                else:
                    fail(
                        place,
                        "LATENT_NONFINITE",
                        "the autoencoder gave numbers that are not finite, or too large for encode.dtype",
                    )
            waiting.clear()

    pictures = (image.picture for _, image in shard.images)
    for place, fitted in enumerate(reader.read(pictures)):
        notes.update(fitted.notes)
        if fitted.pixels is None:
            fail(place, fitted.reason, fitted.message)
        else:
            waiting.append((place, fitted))
        if len(waiting) == encode.batch_size:
            flush()
            runtime.interrupts.check()
    flush()
    good = np.isfinite(rows).all((1, 2, 3, 4))
    documents = f"{DOCUMENTS}/{shard.number:05d}.jsonl"
    files = [documents]
    if len(rows):
        files.append(write_shard(job.array, shard.number, rows).relative_to(job.folder).as_posix())
    write_jsonl(job.folder / documents, (_document_row(row, item) for row, item in shard.documents))
    kept = rows[good].astype(np.float64)
    return {
        "shard": shard.number,
        "files": files,
        "good": int(good.sum()),
        "errors": errors,
        "notes": dict(notes),
        "values": int(kept[:, 0, 0].size),
        "sum": kept[:, 0].sum((0, 2, 3)).tolist(),
        "square": (kept[:, 0] ** 2 + kept[:, 1] ** 2).sum((0, 2, 3)).tolist(),
    }


def _document_row(first_row: int, document: Document) -> dict[str, Any]:
    segments: list[dict[str, Any]] = []
    row = first_row
    for segment in document.segments:
        if isinstance(segment, TextSegment):
            segments.append({"text": segment.text})
            continue
        segments.append({"image": row, "grid": 0, "name": segment.name})
        row += 1
    return {
        "key": document.key,
        "group": document.group,
        "fixed_order": document.fixed_order,
        "heldout": document.heldout,
        "facts": document.facts,
        "segments": segments,
    }


class Failures:
    """Stops the run where too many pictures fail: a wrong folder or a missing codec must not be found at the end.

    The limit is max_bad of the pictures seen so far, and of the first 100 where fewer were seen.
    """

    def __init__(self, max_bad: float) -> None:
        self.max_bad = max_bad
        self.bad = self.seen = 0
        self.reasons: Counter[str] = Counter()

    def saw_record(self, record: Record) -> None:
        """The same of a finished shard."""
        self.saw(record["good"], [error for error in record["errors"] if "row" in error])

    def saw(self, good: int, errors: list[dict[str, Any]]) -> None:
        self.bad += len(errors)
        self.seen += good + len(errors)
        self.reasons.update(error["reason"] for error in errors)
        if self.bad <= self.max_bad * max(100, self.seen):
            return
        reason, count = self.reasons.most_common(1)[0]
        example = errors[-1]
        raise TfcliError(
            f"{self.bad} of the first {self.seen} pictures cannot be used",
            why=f"mostly {reason} ({count}), e.g. {printable(example['path'])}: {example['message']}",
            fix="mend the source, or raise encode.max_bad if that is expected",
            code=ExitCode.INPUT,
        )
