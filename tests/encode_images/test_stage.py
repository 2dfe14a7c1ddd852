"""Encoding: the result depends neither on workers nor on kills, and a bad picture costs one row."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stages.artifacts.autoencoder import Autoencoder
from stages.artifacts.context import StageContext
from stages.artifacts.folder import building
from stages.artifacts.latents import Latents, StoredImage
from stages.artifacts.manifest import Stamp
from stages.coders.config import Images
from stages.coders.pixels import crop, decode
from stages.coders.vae import Vae, load_vae
from stages.core.config import result_config
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Event, Warn
from stages.core.files import read_jsonl
from stages.core.runtime import Runtime, WorkPart
from stages.encode_images import rows as shard_rows
from stages.encode_images import stage
from stages.encode_images.config import EncodeConfig
from stages.encode_images.plan import latent_bytes, plan
from stages.sources.document import Document, ImageSegment, TextSegment
from stages.sources.failures import Failures
from tests.builders import make_autoencoder
from tests.sources.test_decoding import Drawn

BAD = 5


@dataclass(frozen=True)
class Png:
    """A picture of one colour as a PNG's bytes; cut short where it is bad."""

    number: int
    bad: bool

    def read(self) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (20, 16), (self.number * 20 % 256, 90, 200)).save(file, "PNG")
        return file.getvalue()[: 30 if self.bad else None]


@dataclass(frozen=True)
class Pairs:
    bad: tuple[int, ...] = (BAD,)
    pictures: int = 11

    def documents(self) -> Iterator[Document]:
        for number in range(self.pictures):
            image = ImageSegment(f"p{number}.png", Png(number, number in self.bad))
            yield Document(f"d{number}", (TextSegment(f"text {number}"), image), labels={"number": number})

    def count(self) -> tuple[int, int]:
        return self.pictures, self.pictures

    def identity(self) -> Any:
        return None

    def describe(self) -> str:
        return "pairs"


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_autoencoder(tmp_path_factory.mktemp("vae") / "autoencoder")


def encode(target: Path, autoencoder: Path, source: Pairs | None = None, workers: int = 0, **options: Any) -> Latents:
    work(target, autoencoder, Runtime(device="cpu", workers=workers), source, **options)
    return Latents.open(target)


def work(target: Path, autoencoder: Path, runtime: Runtime, source: Pairs | None = None, **options: Any) -> bool:
    """One call of the stage; whether it sealed (or found sealed) the latents."""
    settings = EncodeConfig(batch_size=3, shard_rows=4, check_pictures=4, **options)
    stamp = Stamp("latents", "encode", 1, 0, {"dtype": settings.dtype})
    with building(target, stamp, runtime) as build:
        if build.sealed is None:
            stage.run(source or Pairs(), Images(size=16), settings, autoencoder, StageContext(build, runtime, 0))
    return build.sealed is not None


def shards_written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The shards that are written from now on."""
    written: list[int] = []
    real = shard_rows.write_shard

    def noted(path: Path, shard: int, rows: Any) -> Path:
        written.append(shard)
        return real(path, shard, rows)

    monkeypatch.setattr(shard_rows, "write_shard", noted)
    return written


def test_a_bad_picture_leaves_a_nan_row_and_an_error_line(tmp_path: Path, autoencoder: Path) -> None:
    latents = encode(tmp_path / "latents", autoencoder)
    rows = latents.rows().read(np.arange(11)).astype(np.float32)
    assert rows.shape == (11, 2, 4, 8, 8)
    assert [number for number in range(11) if np.isnan(rows[number, 0]).all()] == [BAD]
    assert np.isfinite(np.delete(rows, BAD, 0)).all()
    assert (latents.content.num_images, latents.content.num_good) == (11, 10)
    assert (tmp_path / "latents" / "errors.jsonl").read_text().count(f"p{BAD}.png") == 1
    documents = list(latents.documents())
    assert [document.key for document in documents] == [f"d{number}" for number in range(11)]
    assert [document.labels for document in documents] == [{"number": number} for number in range(11)]
    images = [part for document in documents for part in document.segments if isinstance(part, StoredImage)]
    assert [(image.row, image.ok) for image in images] == [(row, row != BAD) for row in range(11)]


def test_statistics_are_those_of_posterior_draws(tmp_path: Path, autoencoder: Path) -> None:
    latents = encode(tmp_path / "latents", autoencoder)
    good = np.delete(latents.rows().read(np.arange(11)).astype(np.float64), BAD, 0)
    variance = good[:, 0].var((0, 2, 3)) + (good[:, 1] ** 2).mean((0, 2, 3))
    assert np.allclose(latents.content.channel_mean, good[:, 0].mean((0, 2, 3)))
    assert np.allclose(latents.content.channel_std, np.sqrt(variance))


def test_workers_change_nothing(tmp_path: Path, autoencoder: Path) -> None:
    none = encode(tmp_path / "none", autoencoder, workers=0)
    two = encode(tmp_path / "two", autoencoder, workers=2)
    assert none.manifest.digest == two.manifest.digest


@pytest.mark.parametrize("fatal", [1, 2, 3])
def test_a_killed_run_ends_in_the_same_bytes(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    class Killed(BaseException):
        pass

    whole = encode(tmp_path / "whole", autoencoder)
    written: list[int] = []

    def dying(path: Path, shard: int, rows: Any) -> Path:
        written.append(shard)
        if len(written) == fatal:
            raise Killed
        return real(path, shard, rows)

    real = shard_rows.write_shard
    monkeypatch.setattr(shard_rows, "write_shard", dying)
    with pytest.raises(Killed):
        encode(tmp_path / "cut", autoencoder)
    again = encode(tmp_path / "cut", autoencoder)
    assert written == [*range(fatal), *range(fatal - 1, 3)]  # finished shards are not done again
    assert again.manifest.digest == whole.manifest.digest


def test_too_many_bad_pictures_stop_the_run(tmp_path: Path, autoencoder: Path) -> None:
    with pytest.raises(TfcliError) as caught:
        encode(tmp_path / "latents", autoencoder, Pairs(bad=tuple(range(8))))
    assert caught.value.code == ExitCode.INPUT


@pytest.mark.parametrize("cores", [1, 64])
def test_whether_bad_pictures_stop_the_run_does_not_depend_on_the_cores(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    """With many cores most good pictures are still on their way when a bad one is decoded."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    bad = tuple(range(10, 200, 24))
    assert len(bad) == 8 <= 0.05 * 200  # and never more than 5 of the first 100
    latents = encode(tmp_path / "latents", autoencoder, Pairs(bad, 200))
    assert latents.content.num_good == 192
    monkeypatch.setattr(shard_rows.ShardRows, "store", lambda *_: False)
    with pytest.raises(TfcliError, match="6 of the first 6 pictures") as caught:
        encode(tmp_path / "not_finite", autoencoder, Pairs((), 200))
    assert caught.value.why.startswith("mostly LATENT_NONFINITE (6)")


def test_the_limit_of_bad_pictures_changes_no_byte_and_keeps_what_is_done() -> None:
    assert result_config(EncodeConfig(max_bad=0.5, bad_window=100)) == result_config(EncodeConfig())


@pytest.mark.parametrize(("window", "stops"), [(100, True), (1000, False)])
def test_a_run_of_bad_pictures_late_stops_as_well(window: int, stops: bool) -> None:
    failures = Failures(0.05, window)
    error = {"path": "p", "reason": "UNREADABLE", "message": "gone", "row": 1}
    for _ in range(900):
        failures.saw(1, [])
    with pytest.raises(TfcliError, match="6 of the last 100") if stops else nullcontext():
        for _ in range(30):
            failures.saw(0, [error])
    assert failures.bad == (6 if stops else 30)
    for _ in range(1000):
        failures.saw(1, [])
    for _ in range(3):
        failures.saw(0, [error])  # the bad ones of long ago are forgotten


def test_failed_pictures_are_tried_again_and_the_other_shards_kept(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as after a disk was away: the source is the same, one picture can be read now."""
    whole = encode(tmp_path / "whole", autoencoder, Pairs(bad=()))
    first = encode(tmp_path / "latents", autoencoder)
    assert first.content.num_good == 10
    written = shards_written(monkeypatch)
    work(tmp_path / "latents", autoencoder, Runtime(device="cpu", workers=0, retry_failed=True), Pairs(bad=()))
    again = Latents.open(tmp_path / "latents")
    assert written == [BAD // 4]
    assert again.manifest.digest == whole.manifest.digest


def test_a_deleted_shard_is_made_again_alone(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode(tmp_path / "latents", autoencoder)
    (tmp_path / "latents" / "arrays" / "8x8" / "c" / "2" / "0" / "0" / "0" / "0").unlink()
    written = shards_written(monkeypatch)
    assert encode(tmp_path / "latents", autoencoder).manifest.digest == whole.manifest.digest
    assert written == [2]


def test_an_autoencoder_that_computes_otherwise_is_refused(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = Vae.probe
    monkeypatch.setattr(Vae, "probe", lambda vae: [value * 1.05 + 0.05 for value in probe(vae)])
    with pytest.raises(TfcliError, match="does not compute what it did") as caught:
        encode(tmp_path / "latents", autoencoder)
    assert caught.value.code == ExitCode.ARTIFACT


def test_too_little_device_memory_makes_batches_smaller_and_says_so(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode(tmp_path / "whole", autoencoder)
    real = Vae._encode_batch
    sizes: list[int] = []

    def small(vae: Vae, pixels: Any) -> Any:
        sizes.append(len(pixels))
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(vae, pixels)

    monkeypatch.setattr(Vae, "_encode_batch", small)
    events: list[Event] = []
    assert work(tmp_path / "latents", autoencoder, Runtime(events.append, device="cpu", workers=0))
    assert sizes == [1, 3, *[1] * 12]  # the probe, a failure, then one by one
    assert any("batches of 1" in event.text for event in events if isinstance(event, Warn))
    rows = [Latents.open(tmp_path / name).rows().read(np.arange(11)) for name in ("whole", "latents")]
    assert np.allclose(rows[0].astype(float), rows[1].astype(float), atol=2e-3, equal_nan=True)
    del whole


def test_no_device_memory_at_all_is_an_error_of_the_environment(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Vae, "_encode_batch", none)
    with pytest.raises(TfcliError, match="too little memory") as caught:
        encode(tmp_path / "latents", autoencoder)
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_every_batch_is_full_whatever_is_left_or_failed(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The autoencoder rounds by the size of a batch and, for odd ones, by the number of threads."""
    sizes: list[int] = []
    real = Vae.encode

    def noted(vae: Vae, pixels: Any) -> Any:
        sizes.append(len(pixels))
        return real(vae, pixels)

    monkeypatch.setattr(Vae, "encode", noted)
    latents = encode(tmp_path / "latents", autoencoder)
    assert sizes == [1, *[3] * 4]  # the probe; shards of 4 (two batches), of 4 with one bad, of 3
    monkeypatch.undo()
    vae = load_vae(autoencoder / "model", device="cpu")
    last = vae.encode(crop(decode(Png(10, False).read(), Images().policy).image, 16, 16)[None])[0]
    assert np.allclose(latents.rows().read(np.array([10]))[0, 0], last[0], atol=2e-3)


def test_a_plan_counts_and_guesses_without_writing(tmp_path: Path, autoencoder: Path) -> None:
    settings = EncodeConfig(batch_size=3, shard_rows=4)
    runtime = Runtime(device="cpu", workers=2)
    found = plan(Pairs(), Images(size=16), settings, autoencoder, runtime)
    assert (found.documents, found.pictures, found.shards) == (11, 11, 3)
    array = encode(tmp_path / "latents", autoencoder).folder / "arrays" / "8x8" / "c"
    written = sum(file.stat().st_size for file in array.rglob("*") if file.is_file())
    assert found.bytes is not None
    assert found.bytes == pytest.approx(written, rel=0.05)
    assert found.seconds is not None
    assert found.seconds > 0
    assert plan(Pairs(), Images(size=16), settings, tmp_path / "none", runtime).bytes is None


@dataclass(frozen=True)
class Changing(Pairs):
    """A source that is another one when it is listed for the second or third time."""

    lengths: tuple[int, ...] = (11, 11, 11)
    broken_at: int = 99
    passes: list[int] = field(default_factory=list)

    def documents(self) -> Iterator[Document]:
        number_of_pass = len(self.passes)
        self.passes.append(0)
        for number in range(self.lengths[min(number_of_pass, 2)]):
            picture = Png(number, number_of_pass >= self.broken_at)
            yield Document(f"d{number}", (ImageSegment(f"p{number}.png", picture),))


def test_the_check_reads_no_picture_again_that_crashed_its_decoder(tmp_path: Path, autoencoder: Path) -> None:
    @dataclass(frozen=True)
    class First(Pairs):
        def documents(self) -> Iterator[Document]:
            for document in Pairs(bad=()).documents():
                number = int(document.key[1:])
                picture = Drawn(number, "SIGKILL" if number == 0 else "")
                yield Document(document.key, (ImageSegment(f"p{number}.png", picture),))

    latents = encode(tmp_path / "latents", autoencoder, First(), workers=1)
    errors = list(read_jsonl(tmp_path / "latents" / "errors.jsonl"))
    assert [(row["row"], row["reason"]) for row in errors] == [(0, "DECODER_CRASHED")]
    assert latents.content.num_good == 10


@pytest.mark.parametrize("lengths", [(11, 12, 12), (11, 13, 13), (11, 7, 7), (11, 10, 10)])
def test_a_source_that_changes_meanwhile_is_told(tmp_path: Path, autoencoder: Path, lengths: tuple[int, ...]) -> None:
    with pytest.raises(TfcliError, match="changed while it was encoded") as caught:
        encode(tmp_path / "latents", autoencoder, Changing(lengths=lengths))
    assert caught.value.code == ExitCode.INPUT
    assert not (tmp_path / "latents").exists()


def test_a_picture_that_can_no_longer_be_read_in_the_check_is_told(tmp_path: Path, autoencoder: Path) -> None:
    with pytest.raises(TfcliError, match="changed while it was encoded") as caught:
        encode(tmp_path / "latents", autoencoder, Changing(broken_at=2))
    assert "picture 0 could be read" in caught.value.why
    assert encode(tmp_path / "latents", autoencoder, Changing()).content.num_good == 11


def test_a_signal_is_obeyed_between_two_pictures_of_the_check(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(device="cpu", workers=0)
    real, decoded = Vae.decode, []

    def decode_and_strike(vae: Vae, raw: Any) -> Any:
        decoded.append(1)
        runtime.interrupts.signal_number = signal.SIGTERM
        return real(vae, raw)

    monkeypatch.setattr(Vae, "decode", decode_and_strike)
    with pytest.raises(TfcliError, match="stopped by SIGTERM"):
        work(tmp_path / "latents", autoencoder, runtime)
    assert len(decoded) == 1


def test_documents_stay_in_order_beyond_a_hundred_thousand_shards(tmp_path: Path, autoencoder: Path) -> None:
    latents = encode(tmp_path / "latents", autoencoder)
    before = [document.key for document in latents.documents()]
    folder = tmp_path / "latents" / "documents"
    assert len(list(folder.iterdir())) == 3
    files = {entry.path: entry for entry in latents.manifest.files}
    for old, new in (("00002", "100001"), ("00001", "100000"), ("00000", "99999")):
        (folder / f"{old}.jsonl").rename(folder / f"{new}.jsonl")
        entry = files.pop(f"documents/{old}.jsonl")
        files[f"documents/{new}.jsonl"] = entry.model_copy(update={"path": f"documents/{new}.jsonl"})
    manifest = latents.manifest.model_copy(update={"files": list(files.values())})
    renamed = Latents(latents.folder, manifest, latents.content)
    assert [document.key for document in renamed.documents()] == before


def test_a_disk_that_is_too_small_is_told_before_a_shard_is_made(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three shards (11 rows of 2 x 4 x 8 x 8 float16) one is there when the disk has room for half of the other two."""
    row = 2 * 4 * 8 * 8 * 2 + 4
    assert not work(tmp_path / "latents", autoencoder, Runtime(device="cpu", workers=0, part=WorkPart(1, 3)))
    written = shards_written(monkeypatch)
    free = 4 * row
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(TfcliError, match=f"7 pictures take {7 * row + 8 * 16:,} bytes, {free:,} are free") as caught:
        encode(tmp_path / "latents", autoencoder)
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert written == []
    free = round(1.2 * (7 * row + 8 * 16))
    encode(tmp_path / "latents", autoencoder)
    assert written == [1, 2]
    sizes = sum(
        path.stat().st_size for path in (tmp_path / "latents" / "arrays" / "8x8" / "c").rglob("*") if path.is_file()
    )
    assert (
        sizes
        == latent_bytes(11, Images(size=16), EncodeConfig(shard_rows=4), Autoencoder.open(autoencoder).content) + 3 * 4
    )


def test_the_sheet_does_not_make_other_latents(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding rounds by the number of threads: latents of two machines are the same all the same."""
    first = encode(tmp_path / "first", autoencoder)
    real = Vae.decode
    monkeypatch.setattr(Vae, "decode", lambda vae, raw: real(vae, raw) ^ 1)
    second = encode(tmp_path / "second", autoencoder)
    assert (tmp_path / "first" / "check.png").read_bytes() != (tmp_path / "second" / "check.png").read_bytes()
    assert second.manifest.digest == first.manifest.digest


@pytest.mark.parametrize(("floor", "check"), [(20.0, "warn"), (1.0, "warn"), (20.0, "refuse"), (1.0, "refuse")])
def test_an_autoencoder_that_does_not_fit_the_pictures_is_named(
    tmp_path: Path, autoencoder: Path, floor: float, check: Any
) -> None:
    """The autoencoder of these tests is untrained: some 5 dB. By default a warning, an error where the recipe wants one."""
    told: list[Any] = []
    options: dict[str, Any] = {"min_psnr": floor, "psnr_check": check}
    failed = None
    try:
        work(tmp_path / "latents", autoencoder, Runtime(report=told.append, workers=0), **options)
    except TfcliError as error:
        failed = error
    warned = [event.text for event in told if isinstance(event, Warn) and "dB PSNR, below 20 dB" in event.text]
    assert (failed is not None) == (floor == 20 and check == "refuse")
    assert len(warned) == (floor == 20 and check == "warn")
    assert (tmp_path / "latents").exists() == (failed is None)
    if failed is not None:
        assert failed.code == ExitCode.INPUT
        assert "encode.min_psnr" in (failed.fix or "")
    assert result_config(EncodeConfig(**options)) == result_config(EncodeConfig())
