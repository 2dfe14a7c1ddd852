"""Pictures -> raw latents: source + Autoencoder -> Latents. A shard of rows is the unit of work and of resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from stages.artifacts.arrays import DESCRIPTION, RowReader, create_rows, flat_files, is_described, write_flat
from stages.artifacts.autoencoder import Autoencoder, AutoencoderContent, Identity
from stages.artifacts.context import StageContext
from stages.artifacts.folder import Build
from stages.artifacts.latents import ARRAYS, DOCUMENTS, ERRORS, GRIDS, SHEET, Grid, LatentsContent
from stages.coders.config import Images
from stages.coders.pixels import Pixels, encode_png
from stages.coders.quality import ADVICE, Floats, psnr, refuse_silent, too_low
from stages.coders.sheets import compared_sheet
from stages.coders.vae import Vae
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note, Progress, Warn
from stages.core.files import require_space, write_atomic, write_jsonl
from stages.core.runtime import Runtime
from stages.core.text import printable
from stages.encode_images.config import EncodeConfig
from stages.encode_images.cutting import Shard, cut_shards
from stages.encode_images.encoder import Encoder
from stages.encode_images.engines import encode_on_ray
from stages.encode_images.job import Job
from stages.encode_images.plan import latent_bytes
from stages.encode_images.rows import unpack_grids
from stages.encode_images.shards import Record, encode_shards, num_shards
from stages.sources.decoding import PictureReader
from stages.sources.document import Omission, Source, count_documents, pictures_of
from stages.sources.failures import Failures
from stages.sources.reasons import LeftOut

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def run(source: Source, images: Images, encode: EncodeConfig, autoencoder: Path, context: StageContext) -> None:
    """Encode every picture, keep the documents, measure the channels, check the pictures decoded from the store, seal."""
    build, runtime = context.build, context.runtime  # nothing here is random
    opened = Autoencoder.open(autoencoder)
    content = opened.content
    _check_fits(content, images)
    runtime.report(Note(f"reading {source.describe()}"))
    with runtime.interrupts.at_once("finished shards are kept"):
        left_out = LeftOut()
        num_documents, num_images = count_documents(left_out.kept(source.documents()))
    if num_images == 0:
        raise left_out.nothing("no pictures to encode", source.describe())
    model = opened.model_folder
    job = Job(model, images, encode, build.folder, content.latent_channels, content.downsampling, runtime.device)
    with build.claim("array", wait=True):
        for grid in range(job.num_grids):
            if runtime.part.whole:  # no other process reads it: made again, as no sum covers it before the seal
                (job.array(grid) / "zarr.json").unlink(missing_ok=True)
            if runtime.part.whole or not is_described(job.array(grid)):
                create_rows(job.array(grid), num_images, job.row_shape(grid), encode.dtype, encode.shard_rows)
    (build.folder / DOCUMENTS).mkdir(exist_ok=True)
    left = _pictures_left(num_images, encode, build, runtime)
    require_space(build.folder, latent_bytes(left, images, encode, content), f"the latents of {left:,} pictures")
    vae = job.load()
    _check_probe(vae, content.identity, encode)

    _encode(source, job, vae, num_images, build, runtime)
    records = _records(build, num_shards(num_images, encode), runtime)
    if records:
        if vae.max_batch:
            why = f"the device's memory held batches of {vae.max_batch} pictures, not encode.batch_size"
            runtime.report(Warn(f"{why}: latents differ from those of full batches by rounding"))
        _seal(source, job, vae, content, num_documents, records, build, runtime)


def _check_fits(content: AutoencoderContent, images: Images) -> None:
    """Raise TfcliError where the autoencoder was not made for pictures of these sizes."""
    if (content.picture_size, content.fit) != (images.size, images.fit):
        raise TfcliError(
            f"the autoencoder was made for {content.picture_size} px ({content.fit}), "
            f"the recipe says {images.size} ({images.fit})",
            fix="run 'tfcli vae' again",
            code=ExitCode.ARTIFACT,
        )
    if images.step % content.downsampling:
        why = (
            f"sides of pictures are multiples of {images.step}, the autoencoder divides them by {content.downsampling}"
        )
        raise TfcliError(
            "pictures and autoencoder do not fit", why=why, fix="set images.bucket_step", code=ExitCode.USAGE
        )


def _records(build: Build, count: int, runtime: Runtime) -> list[Record]:
    """The records of all shards, in order; none while other parts have some to make."""
    if not build.may_seal():
        runtime.report(Note("this part is done; others are still at work, and the last one to end seals the latents"))
        return []
    # the other parts looked at the bytes of theirs
    found = [build.unit(_unit(number), by_size=not runtime.part.whole) for number in range(count)]
    records = [record for record in found if record is not None]
    if len(records) == count:
        return records
    missing = count - len(records)
    runtime.report(Note(f"this part is done; {missing} of {count} shards are still to be made by other parts"))
    return []


def _seal(
    source: Source,
    job: Job,
    vae: Vae,
    content: AutoencoderContent,
    num_documents: int,
    records: list[Record],
    build: Build,
    runtime: Runtime,
) -> None:
    """All shards are there: what was left out, the statistics, the check, the manifest."""
    whole = Failures(job.encode.max_bad, job.encode.bad_window)  # each part knew its own pictures only
    for record in records:
        omissions = [Omission(**error) for error in record["errors"] if "row" not in error]
        whole.lists(record["good"] + record["failed"], omissions)
        whole.saw_record(record)
    errors = [row for record in records for row in record["errors"]]
    write_jsonl(build.folder / ERRORS, errors)
    if errors:
        shown = "; ".join(f"{printable(row['path'])}: {row['reason']} ({row['message']})" for row in errors[:5])
        runtime.report(Warn(f"{len(errors)} left out, see errors.jsonl: {shown}"))
    mean, std = _channel_statistics(records)
    grid_of_row = np.concatenate([unpack_grids(record) for record in records])
    if len(job.sizes()) > 1:
        write_flat(build.folder / ARRAYS / GRIDS, grid_of_row)
    num_good = sum(record["good"] for record in records)
    latents_content = LatentsContent(
        autoencoder=content.identity,
        picture_size=job.images.size,
        latent_channels=content.latent_channels,
        downsampling=content.downsampling,
        num_images=len(grid_of_row),
        num_good=num_good,
        num_documents=num_documents,
        shard_rows=job.encode.shard_rows,
        dtype=job.encode.dtype,
        grids=_grids(job, grid_of_row),
        channel_mean=mean,
        channel_std=std,
    )
    failed = {row["row"] for row in errors if "row" in row}
    runtime.inputs_unchanged()  # before the check, which would blame the pictures
    quality = _check(source, job, vae, grid_of_row, failed, runtime)
    runtime.report(
        Note(f"{num_good} of {len(grid_of_row)} pictures encoded, {quality:.2f} dB PSNR decoded from the latents")
    )
    if why := too_low(quality, f"the first {job.encode.check_pictures} pictures", job.encode.min_psnr):
        if job.encode.psnr_check == "refuse":
            what = "the autoencoder does not fit these pictures (encode.psnr_check)"
            raise TfcliError(what, why=why, fix=f"{ADVICE}; or lower encode.min_psnr", code=ExitCode.INPUT)
        runtime.report(Warn(f"{why}; {ADVICE}"))
    notes: Counter[str] = sum((Counter(record["notes"]) for record in records), Counter())
    stats = {"psnr_check": quality, "left_out": dict(Counter(row["reason"] for row in errors)), "notes": dict(notes)}
    runtime.inputs_unchanged()
    # the sheet is for people; decoding rounds by the number of threads, and no later stage may depend on that
    build.seal(latents_content.model_dump(), stats, volatile=(SHEET,), files=_files(job, records))


def _files(job: Job, records: list[Record]) -> list[str]:
    """The files of these latents: those of the shards, the descriptions of the arrays, what is of all shards."""
    described = [f"{ARRAYS}/{job.array(grid).name}/{DESCRIPTION}" for grid in range(job.num_grids)]
    grids = flat_files(f"{ARRAYS}/{GRIDS}") if len(job.sizes()) > 1 else ()
    return [*(name for record in records for name in record["files"]), *described, *grids, ERRORS, SHEET]


def _encode(source: Source, job: Job, vae: Vae, num_images: int, build: Build, runtime: Runtime) -> None:
    """Make every shard of this part that is not there yet, here or on Ray."""
    work = _PartOfShards(source, job, num_images, build, runtime)
    if runtime.engine == "ray":
        for shard, record in encode_on_ray(job, work.missing(), runtime):
            work.failures.saw_record(record)
            work.finish(shard, record)
        return
    with (
        ExitStack() as claims,
        PictureReader(job.images, runtime.workers) as reader,
        Encoder(vae, job.encode.mirror) as encoder,
    ):
        held: dict[int, ExitStack] = {}

        def claimed() -> Iterator[Shard]:
            """Those that no other process is at work on, each held until it is finished."""
            for shard in work.missing():
                claim = claims.enter_context(ExitStack())
                if claim.enter_context(build.claim(_unit(shard.number))) and build.unit(_unit(shard.number)) is None:
                    held[shard.number] = claim
                    yield shard
                else:
                    claim.close()

        for shard, record in encode_shards(job, claimed(), encoder, reader, work.failures, runtime):
            work.finish(shard, record, release=held.pop(shard.number))
            runtime.interrupts.check()


class _PartOfShards:
    """The shards that this process is to have made, those that are there already, and the count of both."""

    def __init__(self, source: Source, job: Job, num_images: int, build: Build, runtime: Runtime) -> None:
        self.failures = Failures(job.encode.max_bad, job.encode.bad_window)
        self._source, self._size, self._num_images = source, job.encode.shard_rows, num_images
        self._build, self._runtime = build, runtime
        mine = [number for number in range(num_shards(num_images, job.encode)) if runtime.part.has(number)]
        self._total = sum(min(self._size, num_images - number * self._size) for number in mine)
        self._done = self._left_out = 0

    def missing(self) -> Iterator[Shard]:
        """The shards to make; those that are there are accounted for. Raises TfcliError (INPUT) where the source changed."""
        seen, has = 0, self._runtime.part.has
        for shard in cut_shards(self._source, self._size, self._build.folder, self._is_missing):
            self._runtime.interrupts.check()
            seen += len(shard.images)
            if seen > self._num_images:
                break
            if not has(shard.number):
                continue
            self.failures.lists(len(shard.images), shard.omissions)
            record = self._build.unit(_unit(shard.number))
            if record is None:
                yield shard
            else:
                self.failures.saw_record(record)
                self._report(shard, record)
        if seen != self._num_images:
            now = "more" if seen > self._num_images else f"{seen:,}"
            raise TfcliError(
                "the source changed while it was encoded",
                why=f"it had {self._num_images:,} pictures at the start, now {now}",
                fix="run the same command again when the source is at rest",
                code=ExitCode.INPUT,
            )

    def finish(self, shard: Shard, record: Record, release: ExitStack | None = None) -> None:
        """Record a shard that was made. release: its claim."""
        self._build.finish_unit(_unit(shard.number), record, [self._build.folder / name for name in record["files"]])
        if release is not None:
            release.close()
        self._report(shard, record)

    def _is_missing(self, number: int) -> bool:
        return self._runtime.part.has(number) and self._build.unit(_unit(number)) is None

    def _report(self, shard: Shard, record: Record) -> None:
        self._done += len(shard.images)
        self._left_out += record["failed"]
        counts = {"left out": str(self._left_out)}
        self._runtime.report(Progress("encode", self._done, self._total, "pictures", counts))


def _pictures_left(num_images: int, encode: EncodeConfig, build: Build, runtime: Runtime) -> int:
    """The pictures of this part whose shards are not there yet."""
    size = encode.shard_rows
    mine = [number for number in range(num_shards(num_images, encode)) if runtime.part.has(number)]
    return sum(min(size, num_images - number * size) for number in mine if build.unit(_unit(number)) is None)


def _unit(shard: int) -> str:
    return f"shard-{shard:05d}"


def _grids(job: Job, grid_of_row: Bytes) -> list[Grid]:
    """The description of each array, base grids first."""
    counts = np.bincount(grid_of_row, minlength=len(job.sizes())).tolist()
    base = len(counts)
    found = []
    for number in range(job.num_grids):
        height, width = job.sizes()[number % base]
        mirror = number + base if job.encode.mirror and number < base else None
        grid = Grid(
            name=job.array(number).name,
            height=height,
            width=width,
            rows=len(grid_of_row),
            pictures=counts[number % base],
            mirror=mirror,
        )
        found.append(grid)
    return found


def _check_probe(vae: Vae, identity: Identity, encode: EncodeConfig) -> None:
    """Raise TfcliError (ARTIFACT) where the weights, loaded here, do not compute what they did when they were made."""
    found = vae.probe()
    tolerance = 0.1 if encode.precision == "bf16" else 0.01
    if np.allclose(found, identity.probe, rtol=tolerance, atol=tolerance):
        return
    raise TfcliError(
        f"the autoencoder ({identity.class_name}) does not compute what it did when it was made",
        why=f"channel means of a fixed picture were {identity.probe[:4]}, now {found[:4]}",
        fix="check the versions of torch and diffusers, or run 'tfcli vae --force'",
        code=ExitCode.ARTIFACT,
    )


def _channel_statistics(records: list[Record]) -> tuple[list[float], list[float]]:
    """Mean and std of posterior draws per channel, from the shards' sums in shard order."""
    values = sum(record["values"] for record in records)
    if values == 0:
        left_out = LeftOut()
        for row in (row for record in records for row in record["errors"]):
            left_out.add(row["reason"], row["path"], row["message"])
        raise left_out.nothing("no picture could be encoded", "the source")
    mean = np.sum([record["sum"] for record in records], axis=0) / values
    square = np.sum([record["square"] for record in records], axis=0) / values
    std = np.sqrt(np.maximum(square - mean**2, 1e-12))
    return [float(value) for value in mean], [float(value) for value in std]


def _check(source: Source, job: Job, vae: Vae, grid_of_row: Bytes, failed: set[int], runtime: Runtime) -> float:
    """Decode stored latents of the first good pictures, draw the sheet, return the PSNR. Pictures that failed are not read
    again: one that crashes its decoder or never ends would do so here as well."""
    readers = [RowReader(job.array(grid)) for grid in range(len(job.sizes()))]
    good = (row for row in range(len(grid_of_row)) if row not in failed)
    chosen = list(islice(good, job.encode.check_pictures))
    wanted = set(chosen)
    numbered = enumerate(islice(pictures_of(source.documents()), chosen[-1] + 1))
    before: list[Pixels] = []
    after: list[Pixels] = []
    means: list[Floats] = []
    with PictureReader(job.images, runtime.workers) as reader:
        for row, fitted in zip(chosen, reader.read(picture for row, picture in numbered if row in wanted), strict=True):
            runtime.interrupts.check()
            if fitted.pixels is None:
                raise TfcliError(
                    "the source changed while it was encoded",
                    why=f"picture {row} could be read, now it is {fitted.reason}: {fitted.message}",
                    fix="run the same command again when the source is at rest",
                    code=ExitCode.INPUT,
                )
            stored = readers[grid_of_row[row]].read(np.array([row]))[:, 0].astype(np.float32)
            means.append(stored[0])
            before.append(fitted.pixels)
            after.append(vae.decode(stored)[0])
    refuse_silent(means, before)
    shown = min(8, len(before))
    write_atomic(job.folder / SHEET, encode_png(compared_sheet(before[:shown], after[:shown])))
    return psnr(before, after)
