"""Rows on disk: equal to plain zarr, and no damage is read as numbers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr

from stages.artifacts.arrays import RowReader, create_rows, read_flat, write_flat, write_shard
from stages.core.errors import ExitCode, TfcliError

ROWS = np.random.default_rng(0).normal(size=(10, 2, 3, 2, 2)).astype(np.float32)


@pytest.fixture
def array(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    create_rows(path, 10, (2, 3, 2, 2), "float32", 4)
    for shard in range(3):
        write_shard(path, shard, ROWS[shard * 4 : shard * 4 + 4])
    return path


def shard_file(path: Path, shard: int = 0) -> Path:
    return path / "c" / str(shard) / "0" / "0" / "0" / "0"


def test_rows_equal_plain_zarr_in_any_order(array: Path) -> None:
    order = np.array([9, 0, 4, 4, 7])
    assert np.array_equal(RowReader(array).read(order), ROWS[order])
    assert np.array_equal(zarr.open_array(str(array), mode="r")[...], ROWS)
    assert RowReader(array).read(np.zeros(0, np.int64)).shape == (0, 2, 3, 2, 2)


@pytest.mark.parametrize("shard", [0, 2])  # a full one, and one that ends before its last place
def test_a_damaged_shard_is_written_anew(array: Path, shard: int) -> None:
    path = shard_file(array, shard)
    whole = path.read_bytes()
    for damaged in (b"", whole[:-3], whole[:10] + b"\xff" + whole[11:-1] + b"\x00"):
        path.write_bytes(damaged)
        assert write_shard(array, shard, ROWS[shard * 4 : shard * 4 + 4]) == path
        assert path.read_bytes() == whole


def test_a_reader_survives_pickling(array: Path) -> None:
    reader = RowReader(array)
    size = len(pickle.dumps(reader))
    reader.read(np.array([1]))
    assert len(pickle.dumps(reader)) == size  # the mapped shards stay behind
    assert np.array_equal(pickle.loads(pickle.dumps(reader)).read(np.array([8])), ROWS[[8]])


@pytest.mark.parametrize("row", [-1, 10])
def test_rows_out_of_range_are_an_error(array: Path, row: int) -> None:
    with pytest.raises(IndexError):
        RowReader(array).read(np.array([row]))


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_cut_shard_is_an_error(array: Path, keep: int) -> None:
    path = shard_file(array)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TfcliError, match="damaged"):
        RowReader(array).read(np.array([0]))
    assert np.array_equal(RowReader(array).read(np.array([5])), ROWS[[5]])  # the other shards are fine


def test_a_missing_shard_is_an_error(array: Path) -> None:
    shard_file(array, 1).unlink()
    with pytest.raises(TfcliError, match="damaged"):
        RowReader(array).read(np.array([4]))


def test_every_flipped_bit_is_noticed(array: Path) -> None:
    path = shard_file(array)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        place, bit = int(rng.integers(len(data))), int(rng.integers(8))
        damaged = bytearray(data)
        damaged[place] ^= 1 << bit
        path.write_bytes(bytes(damaged))
        with pytest.raises(TfcliError, match="damaged"):
            RowReader(array).read(np.arange(4))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["data_type"], "int64"),
        (["zarr_format"], 2),
        (["node_type"], "group"),
        (["codecs"], [{"name": "bytes"}]),
        (["codecs", 0, "configuration", "codecs"], [{"name": "bytes"}, {"name": "zstd"}, {"name": "crc32c"}]),
        (["codecs", 0, "configuration", "codecs", 0, "configuration", "endian"], "big"),
        (["codecs", 0, "configuration", "index_location"], "start"),
        (["chunk_grid", "configuration", "chunk_shape"], [4, 1, 3, 2, 2]),
        (["fill_value"], 0.0),
    ],
)
def test_another_layout_is_refused(array: Path, keys: list[str | int], value: object) -> None:
    meta = json.loads((array / "zarr.json").read_text())
    place = meta
    for key in keys[:-1]:
        place = place[key]
    assert place[keys[-1]] != value
    place[keys[-1]] = value
    (array / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(TfcliError, match="damaged") as caught:
        RowReader(array)
    assert caught.value.code == ExitCode.ARTIFACT


@pytest.mark.parametrize(
    "key", ["shape", "data_type", "chunk_grid", "fill_value", "codecs", "zarr_format", "node_type"]
)
def test_a_missing_key_is_damage(array: Path, key: str) -> None:
    meta = json.loads((array / "zarr.json").read_text())
    del meta[key]
    (array / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(TfcliError, match="damaged"):
        RowReader(array)


def test_rows_read_as_another_width_are_damage(array: Path) -> None:
    meta = json.loads((array / "zarr.json").read_text())
    (array / "zarr.json").write_text(json.dumps({**meta, "data_type": "float16"}))
    with pytest.raises(TfcliError, match="damaged"):
        RowReader(array).read(np.arange(4))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff"])
def test_metadata_that_is_no_json_object_is_damage(array: Path, data: bytes) -> None:
    (array / "zarr.json").write_bytes(data)
    with pytest.raises(TfcliError, match="damaged"):
        RowReader(array)


def test_a_damaged_flat_array_is_an_error(tmp_path: Path) -> None:
    write_flat(tmp_path / "f", np.arange(50))
    path = tmp_path / "f" / "c" / "0"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(TfcliError, match="cannot be read"):
        read_flat(tmp_path / "f")


@pytest.mark.parametrize(
    "values", [np.arange(7, dtype=np.int32), np.zeros((0, 4), np.int64), np.ones((3, 2), np.uint8)]
)
def test_flat_arrays_come_back(tmp_path: Path, values: np.ndarray) -> None:  # type: ignore[type-arg]
    write_flat(tmp_path / "f", values)
    found = read_flat(tmp_path / "f")
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)
    assert found.shape == values.shape


def test_settings_of_zarr_from_outside_change_nothing(tmp_path: Path) -> None:
    """As ZARR_ARRAY__WRITE_EMPTY_CHUNKS=false would set them: not even a value that zarr can read."""
    rows = np.zeros((4, 2, 3), np.float32)
    found = []
    for name, settings in {
        "plain": {},
        "strange": {"array.write_empty_chunks": "false", "codec_pipeline.path": "nowhere"},
    }.items():
        with zarr.config.set(settings):
            create_rows(tmp_path / name / "rows", 4, (2, 3), "float32", 4)
            write_shard(tmp_path / name / "rows", 0, rows)
            write_flat(tmp_path / name / "flat", np.arange(5))
            assert read_flat(tmp_path / name / "flat").tolist() == [0, 1, 2, 3, 4]
            assert not settings or zarr.config.get("codec_pipeline.path") == "nowhere"  # and it is given back
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        found.append([(path.relative_to(tmp_path / name), path.read_bytes()) for path in files])
    assert found[0] == found[1]
