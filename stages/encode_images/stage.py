"""Pictures -> raw latents: source + Autoencoder -> Latents. A shard of rows is the unit of work and of resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.artifacts.arrays import RowReader, create_rows, write_shard
from stages.artifacts.autoencoder import Autoencoder
from stages.artifacts.folder import Build
from stages.artifacts.latents import ARRAYS, DOCUMENTS, ERRORS, SHEET, Grid, LatentsContent
from stages.coders.config import Images
from stages.coders.pictures import Fitted, read_pictures
from stages.coders.pixels import contact_sheet, encode_png
from stages.coders.vae import Vae, load_vae, psnr
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note, Progress, Warn
from stages.core.files import write_atomic, write_jsonl
from stages.core.runtime import Runtime
from stages.encode_images.config import EncodeConfig
from stages.sources.document import Document, ImageSegment, Omission, Source, TextSegment
from stages.sources.text_rules import printable


@dataclass(frozen=True)
class _Shard:
    """Rows first_row .. first_row + len(images) and the documents whose first row (or place) lies among them."""

    number: int
    first_row: int
    images: list[tuple[str, ImageSegment]]  # key of the document, image
    documents: list[tuple[int, Document]]  # first row of the document, document
    omissions: list[Omission]


def run(
    source: Source, images: Images, encode: EncodeConfig, autoencoder: Path, build: Build, runtime: Runtime, seed: int
) -> None:
    """Encode every picture, keep the documents, measure the channels, check the pictures decoded from the store, seal."""
    del seed  # nothing is drawn here
    opened = Autoencoder.open(autoencoder)
    facts = opened.content
    if (facts.picture_size, facts.fit) != (images.size, images.fit):
        raise TfcliError(
            f"the autoencoder was made for {facts.picture_size} px ({facts.fit}), the recipe says {images.size} ({images.fit})",
            fix="run 'tfcli vae' again",
            code=ExitCode.ARTIFACT,
        )
    vae = load_vae(opened.model_folder, device=runtime.device, precision=encode.precision)
    num_images, num_documents = _count(source)
    if num_images == 0:
        why = f"{source.describe()}: {num_documents} documents, none with a picture"
        raise TfcliError("no pictures to encode", why=why, fix="check the source's path", code=ExitCode.INPUT)
    side = images.size // facts.downsampling
    grid = Grid(name=f"{side}x{side}", height=side, width=side, rows=num_images)
    array = build.folder / ARRAYS / grid.name
    row_shape = (2, facts.latent_channels, side, side)
    if not (array / "zarr.json").exists():
        create_rows(array, num_images, row_shape, encode.dtype, encode.shard_rows)
    (build.folder / DOCUMENTS).mkdir(exist_ok=True)

    failures = _Failures(encode.max_bad)
    records = []
    for shard in _shards(source, encode.shard_rows):
        unit = f"shard-{shard.number:05d}"
        record = build.unit(unit)
        if record is None:
            runtime.interrupts.check()
            record = _encode_shard(shard, vae, images, encode, build.folder, array, row_shape, failures, runtime)
            build.finish_unit(unit, record, [build.folder / name for name in record["files"]])
        else:
            failures.saw(record["good"], [error for error in record["errors"] if "row" in error])
        records.append(record)
        done = min(num_images, shard.first_row + len(shard.images))
        runtime.report(Progress("encode", done, num_images, "pictures", {"left out": str(failures.bad)}))

    errors = [row for record in records for row in record["errors"]]
    write_jsonl(build.folder / ERRORS, errors)
    if errors:
        shown = "; ".join(f"{printable(row['path'])}: {row['reason']} ({row['message']})" for row in errors[:5])
        runtime.report(Warn(f"{len(errors)} left out, see errors.jsonl: {shown}"))
    mean, deviation = _channel_statistics(records)
    num_good = sum(record["good"] for record in records)
    content = LatentsContent(
        picture_size=images.size,
        latent_channels=facts.latent_channels,
        downsampling=facts.downsampling,
        num_images=num_images,
        num_good=num_good,
        num_documents=num_documents,
        shard_rows=encode.shard_rows,
        dtype=encode.dtype,
        grids=[grid],
        channel_mean=mean,
        channel_std=deviation,
    )
    quality = _check(source, images, encode, vae, array, build.folder)
    runtime.report(Note(f"{num_good} of {num_images} pictures encoded, {quality:.2f} dB PSNR from the store"))
    notes = sum((Counter(record["notes"]) for record in records), Counter())
    stats = {"psnr_check": quality, "left_out": dict(Counter(row["reason"] for row in errors)), "notes": dict(notes)}
    build.seal(content.model_dump(), stats)


def _count(source: Source) -> tuple[int, int]:
    """Images and documents: the plan is fixed before any picture is read."""
    num_images = num_documents = 0
    for item in source.documents():
        if isinstance(item, Document):
            num_documents += 1
            num_images += len(item.images)
    return num_images, num_documents


def _shards(source: Source, size: int) -> Iterator[_Shard]:
    """The source cut into shards of `size` rows. A document lies in the shard of its first row, one without images in
    the shard of the row before it; omissions lie where the source reports them."""
    shard = _Shard(0, 0, [], [], [])
    row = 0
    for item in source.documents():
        if isinstance(item, Omission):
            shard.omissions.append(item)
            continue
        if item.images and len(shard.images) == size:
            yield shard
            shard = _Shard(shard.number + 1, row, [], [], [])
        shard.documents.append((row, item))
        for image in item.images:
            if len(shard.images) == size:
                yield shard
                shard = _Shard(shard.number + 1, row, [], [], [])
            shard.images.append((item.key, image))
            row += 1
    yield shard


def _encode_shard(
    shard: _Shard,
    vae: Vae,
    images: Images,
    encode: EncodeConfig,
    folder: Path,
    array: Path,
    row_shape: tuple[int, ...],
    failures: _Failures,
    runtime: Runtime,
) -> dict[str, Any]:
    """Decode, encode and write one shard; returns its facts (counts, sums, reasons, files)."""
    # A row that fails keeps a NaN mean and a deviation of 0: zarr leaves a chunk of nothing but its fill value out of the
    # shard (write_empty_chunks does not reach inside), and a row that is missing must stay a sign of damage.
    rows = np.full((len(shard.images), *row_shape), np.nan, dtype=encode.dtype)
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
        """Encode the waiting pictures; a batch always holds the same rows, whatever the number of workers."""
        if waiting:
            mean, deviation = vae.encode(np.stack([fitted.pixels for _, fitted in waiting]))  # type: ignore[misc]
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
    for place, fitted in enumerate(read_pictures(pictures, images, runtime.workers)):
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
        files.append(write_shard(array, shard.number, rows).relative_to(folder).as_posix())
    write_jsonl(folder / documents, (_document_row(row, item) for row, item in shard.documents))
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


class _Failures:
    """Stops the run where too many pictures fail: a wrong folder or a missing codec must not be found at the end.

    The limit is max_bad of the pictures seen so far, and of the first 100 where fewer were seen.
    """

    def __init__(self, max_bad: float) -> None:
        self.max_bad = max_bad
        self.bad = self.seen = 0
        self.reasons: Counter[str] = Counter()

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


def _channel_statistics(records: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Mean and deviation of posterior draws per channel, from the shards' sums in shard order."""
    values = sum(record["values"] for record in records)
    if values == 0:
        raise TfcliError(
            "no picture could be encoded", why="see errors.jsonl", fix="check the source", code=ExitCode.INPUT
        )
    mean = np.sum([record["sum"] for record in records], axis=0) / values
    square = np.sum([record["square"] for record in records], axis=0) / values
    deviation = np.sqrt(np.maximum(square - mean**2, 1e-12))
    return [float(value) for value in mean], [float(value) for value in deviation]


def _check(source: Source, images: Images, encode: EncodeConfig, vae: Vae, array: Path, folder: Path) -> float:
    """Decode stored latents of the first good pictures, draw the sheet, return the PSNR."""
    reader = RowReader(array)
    pictures = (image.picture for item in source.documents() if isinstance(item, Document) for image in item.images)
    before, rows = [], []
    for row, fitted in enumerate(read_pictures(pictures, images, 0)):
        if fitted.pixels is not None and np.isfinite(reader.read(np.array([row]))).all():
            before.append(fitted.pixels)
            rows.append(row)
        if len(before) == encode.check_pictures:
            break
    stored = reader.read(np.array(rows))[:, 0].astype(np.float32)
    after = np.concatenate([vae.decode(stored[start : start + 32]) for start in range(0, len(stored), 32)])
    shown = min(8, len(before))
    write_atomic(folder / SHEET, encode_png(contact_sheet([*before[:shown], *after[:shown]], columns=shown)))
    return psnr(np.stack(before), after)
