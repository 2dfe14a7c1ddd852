"""Pictures -> raw latents: source + Autoencoder -> Latents. A shard of rows is the unit of work and of resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stages.artifacts.arrays import RowReader, create_rows
from stages.artifacts.autoencoder import Autoencoder
from stages.artifacts.folder import Build
from stages.artifacts.latents import ARRAYS, DOCUMENTS, ERRORS, SHEET, Grid, LatentsContent
from stages.coders.config import Images
from stages.coders.pictures import PictureReader, read_picture
from stages.coders.pixels import contact_sheet, encode_png
from stages.coders.vae import Vae, psnr
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note, Progress, Warn
from stages.core.files import write_atomic, write_jsonl
from stages.core.runtime import Runtime
from stages.encode_images.config import EncodeConfig
from stages.encode_images.engines import encode_on_ray
from stages.encode_images.shards import Failures, Job, Shard, cut_shards, encode_shard, num_shards
from stages.sources.document import Source, count_documents, pictures_of
from stages.sources.text_rules import printable


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
    runtime.report(Note(f"reading {source.describe()}"))
    num_documents, num_images = count_documents(source.documents())
    if num_images == 0:
        why = f"{source.describe()}: {num_documents} documents, none with a picture"
        raise TfcliError("no pictures to encode", why=why, fix="check the source's path", code=ExitCode.INPUT)
    side = images.size // facts.downsampling
    grid = Grid(name=f"{side}x{side}", height=side, width=side, rows=num_images)
    array = build.folder / ARRAYS / grid.name
    row_shape = (2, facts.latent_channels, side, side)
    with build.claim("array", wait=True):
        if not (array / "zarr.json").exists():
            create_rows(array, num_images, row_shape, encode.dtype, encode.shard_rows)
    (build.folder / DOCUMENTS).mkdir(exist_ok=True)
    job = Job(opened.model_folder, images, encode, build.folder, array, row_shape, runtime.device)
    vae = job.load()

    _encode(source, job, vae, num_images, build, runtime)
    units = [_unit(number) for number in range(num_shards(num_images, encode))]
    if not build.may_seal():
        runtime.report(Note("this part is done; others are still at work, and the last one to end seals the latents"))
        return
    found = [build.unit(unit) for unit in units]
    records = [record for record in found if record is not None]
    if len(records) < len(units):
        missing = len(units) - len(records)
        runtime.report(Note(f"this part is done; {missing} of {len(units)} shards are still to be made by other parts"))
        return

    whole = Failures(encode.max_bad)  # each part knew its own pictures only
    for record in records:
        whole.saw_record(record)
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


def _encode(source: Source, job: Job, vae: Vae, num_images: int, build: Build, runtime: Runtime) -> None:
    """Make every shard of this part that is not there yet, here or on Ray."""
    failures = Failures(job.encode.max_bad)
    size = job.encode.shard_rows
    mine = [number for number in range(num_shards(num_images, job.encode)) if runtime.part.has(number)]
    total = sum(min(size, num_images - number * size) for number in mine)
    done = 0

    def report(shard: Shard) -> None:
        nonlocal done
        done += len(shard.images)
        runtime.report(Progress("encode", done, total, "pictures", {"left out": str(failures.bad)}))

    def missing() -> Iterator[Shard]:
        """The shards to make; those that are there are accounted for."""
        for shard in cut_shards(source, size):
            if not runtime.part.has(shard.number):
                continue
            record = build.unit(_unit(shard.number))
            if record is None:
                yield shard
            else:
                failures.saw_record(record)
                report(shard)

    if runtime.engine == "ray":
        for shard, record in encode_on_ray(job, missing(), runtime):
            failures.saw_record(record)
            build.finish_unit(_unit(shard.number), record, [build.folder / name for name in record["files"]])
            report(shard)
        return
    with PictureReader(job.images, runtime.workers) as reader:
        for shard in missing():
            runtime.interrupts.check()
            unit = _unit(shard.number)
            with build.claim(unit) as free:
                if free and build.unit(unit) is None:
                    record = encode_shard(job, shard, vae, reader, failures, runtime)
                    build.finish_unit(unit, record, [build.folder / name for name in record["files"]])
                    report(shard)


def _unit(shard: int) -> str:
    return f"shard-{shard:05d}"


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
    before, rows = [], []
    for row, fitted in enumerate(read_picture(picture, images) for picture in pictures_of(source.documents())):
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
