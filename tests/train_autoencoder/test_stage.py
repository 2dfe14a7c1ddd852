"""Training an autoencoder: a run that was killed and run again ends in the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.artifacts.autoencoder import Autoencoder
from stages.artifacts.checkpoint import write_tensors
from stages.artifacts.context import StageContext
from stages.artifacts.folder import building
from stages.artifacts.manifest import Stamp
from stages.coders.config import Images
from stages.core.events import Note, Report, Warn, silent
from stages.core.runtime import Runtime
from stages.sources.document import Document, ImageSegment
from stages.sources.folder import Folder
from stages.train_autoencoder import saving, stage
from stages.train_autoencoder.config import PretrainedVae, TrainVae

TINY = TrainVae(channels=(8, 8), norm_groups=4, steps=7, batch_size=4, save_every=3, heldout_pictures=4, warmup_steps=2)


@dataclass(frozen=True)
class Flat:
    """One colour with a darker corner."""

    number: int

    def read(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        pixels = np.full((16, 16, 3), (self.number * 37 % 256, self.number * 91 % 256, 200), np.uint8)
        pixels[:6, :6] //= 2
        return pixels


class Pictures:
    def documents(self) -> Iterator[Document]:
        for number in range(24):
            yield Document(f"d{number}", (ImageSegment(f"p{number}", Flat(number)),))

    def count(self) -> tuple[int, int]:
        return 24, 24

    def identity(self) -> Any:
        return None

    def describe(self) -> str:
        return "flat pictures"


class Killed(BaseException):
    """Stands for kill -9: no cleanup of ours runs after it that could help."""


def train(target: Path, vae: TrainVae | PretrainedVae = TINY, report: Report = silent) -> Autoencoder:
    runtime = Runtime(device="cpu", workers=0, report=report)
    stamp = Stamp("autoencoder", "vae", 1, 0, {})
    with building(target, stamp, runtime) as build:
        if build.sealed is None:
            stage.run(Pictures(), Images(size=16), vae, StageContext(build, runtime, 0))
    return Autoencoder.open(target)


@pytest.mark.parametrize("vae", [TINY, TINY.model_copy(update={"gan_weight": 0.5, "gan_start_step": 2})])
@pytest.mark.parametrize("save", [2, 3])
def test_resume_equals_an_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vae: TrainVae, save: int
) -> None:
    whole = train(tmp_path / "whole", vae)
    calls = 0

    def dying(path: Path, tensors: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        if calls == save:  # half a file is there
            path.write_bytes(b"torn")
            raise Killed
        write_tensors(path, tensors)

    monkeypatch.setattr(saving, "write_tensors", dying)
    with pytest.raises(Killed):
        train(tmp_path / "cut", vae)
    monkeypatch.setattr(saving, "write_tensors", write_tensors)
    again = train(tmp_path / "cut", vae)
    assert calls == save
    assert again.manifest.digest == whole.manifest.digest
    assert not (tmp_path / "cut" / "state").exists()


def test_a_kill_right_after_resuming_does_not_tear_the_committed_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def dying(path: Path, tensors: dict[str, Any]) -> None:
        if len(written) == 2:
            raise Killed
        written.append(path.name)
        write_tensors(path, tensors)

    monkeypatch.setattr(saving, "write_tensors", dying)
    for _ in range(2):
        with pytest.raises(Killed):
            train(tmp_path / "cut")
    assert written == ["step-00000000.safetensors", "step-00000003.safetensors"]  # step 3 was not written a second time


def test_a_file_next_to_the_saved_state_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plant(path: Path, tensors: dict[str, Any]) -> None:
        (path.parent / "step-mine.safetensors").write_text("mine")
        write_tensors(path, tensors)

    monkeypatch.setattr(saving, "write_tensors", plant)
    train(tmp_path / "vae")
    assert [path.read_text() for path in tmp_path.glob("vae.kept-*/state/step-mine.safetensors")] == ["mine"]


def test_pretrained_is_copied_with_the_same_weights(tmp_path: Path) -> None:
    first = train(tmp_path / "first")
    second = train(tmp_path / "second", PretrainedVae(path=str(first.model_folder), heldout_pictures=4))
    name = "diffusion_pytorch_model.safetensors"
    assert (second.model_folder / name).read_bytes() == (first.model_folder / name).read_bytes()
    assert second.manifest.stats["psnr_heldout"] > 5
    assert (second.content.downsampling, second.content.latent_channels) == (2, 4)


def test_an_autoencoder_for_buckets_is_trained_on_squares(tmp_path: Path) -> None:
    images = Images(size=16, fit="buckets", bucket_step=8)
    assert images.squares().shapes() == ((16, 16),)
    sizes = [(16, 16), (32, 16), (16, 40)]
    for number in range(12):
        Image.new("RGB", sizes[number % 3], (number * 20, 9, 9)).save(tmp_path / f"{number:02}.png")
    source = Folder(path=str(tmp_path), missing_caption="empty")
    stamp = Stamp("autoencoder", "vae", 1, 0, {})
    with building(tmp_path / "out", stamp, Runtime()) as build:
        stage.run(source, images, TINY, StageContext(build, Runtime(device="cpu", workers=0), 0))
    assert Autoencoder.open(tmp_path / "out").content.fit == "buckets"


@pytest.mark.parametrize("steps", [1, 4])
def test_an_autoencoder_below_the_floor_is_named(tmp_path: Path, steps: int) -> None:
    events: list[Any] = []
    stamp = Stamp("autoencoder", "vae", 1, 0, {})
    runtime = Runtime(device="cpu", workers=0, report=events.append)
    with building(tmp_path / "vae", stamp, runtime) as build:
        stage.run(
            Pictures(), Images(size=16), TINY.model_copy(update={"steps": steps}), StageContext(build, runtime, 0)
        )
    quality = Autoencoder.open(tmp_path / "vae").manifest.stats["psnr_heldout"]
    warned = [event.text for event in events if isinstance(event, Warn)]
    assert quality < 20
    assert len(warned) == 1
    assert f"{quality:.1f} dB PSNR, below 20 dB" in warned[0]


@pytest.mark.parametrize("how", ["byte of the record", "byte of the tensors", "no tensors", "another step"])
def test_a_damaged_state_is_reported_and_training_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    whole = train(tmp_path / "whole")
    calls = 0

    def dying(path: Path, tensors: dict[str, Any]) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Killed
        write_tensors(path, tensors)

    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_tensors", dying)
        with pytest.raises(Killed):
            train(tmp_path / "cut")
    saves = tmp_path / "cut.partial" / "state"
    path = saves / ("step-00000003.safetensors" if "tensors" in how else "state.json")
    if how.startswith("byte"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "no tensors":
        path.unlink()
    else:  # a record from before there was a sum
        record = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "sha256"}
        path.write_text(json.dumps({**record, "step": 2}))
    events: list[Any] = []
    again = train(tmp_path / "cut", report=events.append)
    warned = [event.text for event in events if isinstance(event, Warn) and "its training restarts" in event.text]
    assert len(warned) == 1
    assert not any(isinstance(event, Note) and "resuming from step" in event.text for event in events)
    assert again.manifest.digest == whole.manifest.digest
