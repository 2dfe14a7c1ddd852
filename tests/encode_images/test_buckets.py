"""Pictures of several aspects and mirrored variants: each picture lies in one grid, whole, and where the documents say."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stages.artifacts.context import StageContext
from stages.artifacts.folder import building
from stages.artifacts.latents import Latents, StoredImage
from stages.artifacts.manifest import Stamp
from stages.coders.config import MAX_SHAPES, Images
from stages.coders.vae import load_vae
from stages.core.errors import TfcliError
from stages.core.runtime import Runtime, WorkPart
from stages.encode_images import stage
from stages.encode_images.config import EncodeConfig
from stages.encode_images.rows import pack_grids, unpack_grids
from stages.sources.decoding import read_picture
from stages.sources.document import Document, ImageSegment
from tests.builders import make_autoencoder
from tests.encode_images.test_stage import Pairs

BUCKETS = Images(size=32, fit="buckets", bucket_step=8)
SIZES = [(32, 32), (40, 20), (20, 40), (64, 60), (100, 50), (31, 33), (50, 100)]  # width, height
BAD = 3


@dataclass(frozen=True)
class Gradient:
    """A picture that grows brighter from left to right."""

    number: int

    def read(self) -> bytes:
        width, height = SIZES[self.number % len(SIZES)]
        row = np.linspace(0, 255, width).astype(np.uint8)
        pixels = np.stack([np.tile(row, (height, 1)), np.full((height, width), self.number, np.uint8)], -1)
        file = io.BytesIO()
        Image.fromarray(np.concatenate([pixels, pixels[..., :1]], -1)).save(file, "PNG")
        return file.getvalue()[: 30 if self.number == BAD else None]


@dataclass(frozen=True)
class Albums:
    """Documents of two pictures each, so that documents cross the borders of shards."""

    pictures: int = 14

    def documents(self) -> Iterator[Document]:
        for first in range(0, self.pictures, 2):
            images = tuple(ImageSegment(f"p{number}", Gradient(number)) for number in (first, first + 1))
            yield Document(f"d{first}", images)

    def count(self) -> tuple[int, int]:
        return self.pictures // 2, self.pictures

    def identity(self) -> Any:
        return None

    def describe(self) -> str:
        return "albums"


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_autoencoder(tmp_path_factory.mktemp("vae") / "autoencoder", BUCKETS)


def encode(target: Path, autoencoder: Path, part: WorkPart | None = None, **options: Any) -> None:
    settings = EncodeConfig(batch_size=2, shard_rows=3, check_pictures=5, **options)
    runtime = Runtime(device="cpu", workers=0, part=part or WorkPart())
    with building(target, Stamp("latents", "encode", 1, 0, {}), runtime) as build:
        stage.run(Albums(), BUCKETS, settings, autoencoder, StageContext(build, runtime, 0))


@given(st.integers(1, 8), st.integers(2, 16), st.floats(1, 4))
def test_buckets_are_multiples_within_the_area(step: int, count: int, aspect: float) -> None:
    images = Images(size=8 * step * count, fit="buckets", bucket_step=8 * step, bucket_aspect=aspect)
    shapes = images.shapes()
    assert shapes[0] == (images.size, images.size)
    assert len(set(shapes)) == len(shapes)
    for height, width in shapes:
        assert height % (8 * step) == width % (8 * step) == 0
        assert height * width <= images.size**2 < max(height, width) * (min(height, width) + 8 * step)
        assert max(height, width) <= aspect * min(height, width)
        assert (width, height) in shapes
        assert images.shape_of(3 * height, 3 * width) == (height, width)


def test_one_size_has_one_shape() -> None:
    assert Images(size=40).shapes() == ((40, 40),)
    assert Images(size=40, fit="pad").shape_of(1, 8) == (40, 40)
    with pytest.raises(ValueError, match="no multiple"):
        Images(size=36, fit="buckets", bucket_step=8)
    with pytest.raises(ValueError, match="buckets"):
        Images(size=36, bucket_step=8)


def test_as_many_shapes_as_a_byte_holds_are_kept_and_more_are_refused() -> None:
    grids = np.arange(MAX_SHAPES).astype(np.uint8)
    assert np.array_equal(unpack_grids(json.loads(json.dumps({"grids": pack_grids(grids)}))), grids)
    many = {"size": 1024, "fit": "buckets", "bucket_step": 8}
    assert 63 < len(Images(**many).shapes()) < MAX_SHAPES
    with pytest.raises(ValueError, match="at most 256: raise bucket_step or lower bucket_aspect"):
        Images(**{**many, "bucket_step": 4, "bucket_aspect": 8})


def test_every_picture_lies_in_the_grid_of_its_aspect(tmp_path: Path, autoencoder: Path) -> None:
    encode(tmp_path / "latents", autoencoder, max_bad=1)
    latents = Latents.open(tmp_path / "latents")
    grids = latents.content.grids
    assert {(grid.height, grid.width) for grid in grids} == {(16, 16), (12, 20), (20, 12)}
    images = [part for item in latents.documents() for part in item.segments if isinstance(part, StoredImage)]
    assert [image.row for image in images] == list(range(14))
    vae = load_vae(autoencoder / "model", device="cpu")
    for number, image in enumerate(images):
        width, height = SIZES[number % len(SIZES)]
        grid = grids[image.grid]
        assert image.ok == (number != BAD)
        assert image.ok == (0.7 < (grid.width / grid.height) / (width / height) < 1.7) or number == BAD
        stored = latents.rows(image.grid).read(np.array([image.row]))[0].astype(np.float32)
        assert np.isfinite(stored).all() == image.ok
        if image.ok:
            brightness = vae.decode(stored[None, 0])[0, :, :, 0].astype(float).mean(0)
            assert len(brightness) == 2 * grid.width
    assert sum(grid.pictures for grid in grids) == 14
    assert len({image.grid for image in images}) == 3  # all buckets occurred


def test_what_lies_in_another_grid_cannot_be_read_in_silence(tmp_path: Path, autoencoder: Path) -> None:
    encode(tmp_path / "latents", autoencoder, max_bad=1)
    latents = Latents.open(tmp_path / "latents")
    of_row = latents.grid_of_row()
    elsewhere = next(row for row in range(14) if of_row[row] != 0)
    with pytest.raises(TfcliError, match="damaged"):
        latents.rows(0).read(np.array([elsewhere]))
    plain = zarr.open_array(str(tmp_path / "latents" / "arrays" / latents.content.grids[0].name), mode="r")
    assert np.isnan(np.asarray(plain[elsewhere])).all()


def test_parts_make_the_bytes_of_one_run(tmp_path: Path, autoencoder: Path) -> None:
    encode(tmp_path / "whole", autoencoder, max_bad=1, mirror=True)
    for index in (2, 1, 3):
        encode(tmp_path / "parts", autoencoder, WorkPart(index, 3), max_bad=1, mirror=True)
    one, other = Latents.open(tmp_path / "whole"), Latents.open(tmp_path / "parts")
    assert one.manifest.digest == other.manifest.digest


def test_the_mirrored_variant_is_the_flipped_picture(tmp_path: Path, autoencoder: Path) -> None:
    encode(tmp_path / "latents", autoencoder, max_bad=1, mirror=True, dtype="float32")
    latents = Latents.open(tmp_path / "latents")
    grids = latents.content.grids
    assert [grid.mirror for grid in grids] == [3, 4, 5, None, None, None]
    vae = load_vae(autoencoder / "model", device="cpu")
    of_row = latents.grid_of_row()
    for row in range(14):
        if row == BAD:
            continue
        grid = int(of_row[row])
        mirror = grids[grid].mirror
        assert mirror is not None
        assert grids[mirror].name == f"{grids[grid].name}-mirrored"
        plain, flipped = (latents.rows(number).read(np.array([row]))[0] for number in (grid, mirror))
        pixels = read_picture(Gradient(row), BUCKETS).pixels
        assert pixels is not None
        for stored, picture in ((plain, pixels), (flipped, pixels[:, ::-1])):
            assert np.allclose(stored[0], vae.encode(np.stack([picture, picture]))[0][0], atol=1e-4)
        assert not np.allclose(plain[0], flipped[0], atol=1e-2)


def test_an_autoencoder_that_does_not_divide_the_step_is_refused(tmp_path: Path) -> None:
    images = Images(size=15, fit="buckets", bucket_step=5)
    made = make_autoencoder(tmp_path / "vae", images)
    stamp = Stamp("latents", "encode", 1, 0, {})
    with building(tmp_path / "latents", stamp, Runtime()) as build, pytest.raises(TfcliError, match="do not fit"):
        stage.run(Pairs(), images, EncodeConfig(), made, StageContext(build, Runtime(device="cpu"), 0))


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (3000, 2000), (31, 40), (40, 31)])
def test_the_bucket_is_the_one_nearest_in_ratio_whatever_the_size(width: int, height: int) -> None:
    """Turning a picture turns its bucket, and its number of pixels does not matter."""
    found = BUCKETS.shape_of(height, width)
    assert BUCKETS.shape_of(width, height) == found[::-1]
    assert BUCKETS.shape_of(10 * height, 10 * width) == found
    cut = {
        shape: max(shape[0] * width / (shape[1] * height), shape[1] * height / (shape[0] * width))
        for shape in BUCKETS.shapes()
    }
    assert cut[found] == min(cut.values())
