"""Numeric arrays on disk. The only file that uses zarr.

Latents: one image per chunk, 1,024 images per shard, no compressor, crc32c per chunk. zarr-python writes and describes
them; `RowReader` reads rows from the memory-mapped shard files (60 times faster than zarr-python row by row).
Flat arrays (token ids, offsets, spans): one chunk, zstd and crc32c.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from stages.core.errors import ExitCode, TfcliError
from stages.core.files import disk_errors, sync_up
from stages.core.reading import read_bounded
from stages.core.system import refuse_unreadable

ROWS_PER_SHARD = 1024
DESCRIPTION = "zarr.json"
_MISSING = np.uint64(2**64 - 1)
Array = np.ndarray[Any, np.dtype[Any]]


def create_rows(path: Path, num_rows: int, row_shape: tuple[int, ...], dtype: str, shard_rows: int) -> None:
    """Describe an array (num_rows, *row_shape) filled with NaN; the shards are written by `write_shard`. Shards that are
    there already stay, a description is made again. It is on disk before any shard is: without it they could not be read."""
    import zarr
    from zarr.codecs import Crc32cCodec

    description = path / DESCRIPTION
    with disk_errors(path):
        description.unlink(missing_ok=True)
    with disk_errors(path), _own_settings():
        zarr.create_array(
            store=str(path),
            shape=(num_rows, *row_shape),
            chunks=(1, *row_shape),
            shards=(shard_rows, *row_shape),
            dtype=dtype,
            compressors=[Crc32cCodec()],
            fill_value=float("nan"),
            config={"write_empty_chunks": True},
            zarr_format=3,
            overwrite=False,
        )
    sync_up([description], path.parent)


def is_described(path: Path) -> bool:
    """Whether the description of an array of `create_rows` is there and whole: a power cut may leave an empty one."""
    try:
        _metadata(path)
    except TfcliError as error:
        if error.code != ExitCode.ARTIFACT:
            raise
        return False
    return True


def write_shard(path: Path, shard: int, rows: Array) -> Path:
    """Write one whole shard (its only writer) and return its file. One that is there is not read: zarr would, to keep the
    places behind the last row, and fail where a kill or a disk damaged it. No row may be NaN throughout: zarr leaves a chunk
    that equals the fill value out of a shard, and the reader takes a row that is not there for damage."""
    import zarr

    with disk_errors(path), _own_settings():
        array = zarr.open_array(store=str(path), mode="r+", zarr_format=3)
        assert array.shards is not None
        file = path / "c" / "/".join([str(shard), *["0"] * (array.ndim - 1)])
        file.unlink(missing_ok=True)
        start = shard * array.shards[0]
        array[start : start + len(rows)] = rows
    return file


def write_flat(path: Path, values: Array) -> None:
    """Write a small dense array of numbers as one chunk."""
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    shape = tuple(max(1, size) for size in values.shape)
    with disk_errors(path):  # zarr would delete all that is in the folder
        for file in _flat_there(path):
            file.unlink()
    with disk_errors(path), _own_settings():
        array = zarr.create_array(
            store=str(path),
            shape=values.shape,
            chunks=shape,
            dtype=values.dtype,
            compressors=[ZstdCodec(level=3), Crc32cCodec()],
            config={"write_empty_chunks": True},
            zarr_format=3,
            overwrite=False,
        )
        if values.size:
            array[...] = values
    sync_up(_flat_there(path), path.parent)


def flat_files(name: str) -> tuple[str, ...]:
    """The files that an array of `write_flat`, of one axis or two, may have."""
    return tuple(f"{name}/{file}" for file in (DESCRIPTION, "c/0", "c/0/0"))


def _flat_there(path: Path) -> list[Path]:
    return [file for file in map(Path, flat_files(str(path))) if file.is_file()]


def read_flat(path: Path) -> Array:
    """Read an array of `write_flat` whole. Raises TfcliError (ARTIFACT) where it is damaged."""
    import zarr

    try:
        with _own_settings():
            array = zarr.open_array(store=str(path), mode="r", zarr_format=3)
            values = np.asarray(array[...])
    except Exception as error:  # zarr and its codecs raise many kinds; each means that the bytes are not what we wrote
        refuse_unreadable(path / DESCRIPTION, error)
        raise TfcliError(f"{path} cannot be read", why=str(error), fix=_FIX, code=ExitCode.ARTIFACT) from error
    return values


@contextmanager
def _own_settings() -> Iterator[None]:
    """zarr as it comes: ZARR_* in the environment or a zarr.yaml of the user could change bytes, or stop every write."""
    import zarr

    with zarr.config.set(deepcopy(zarr.config.defaults[0])):  # else two threads could change the defaults
        yield


class RowReader:
    """Random rows of an array of `create_rows`. Shards are mapped when first used; their sums are checked once. A row that
    was never written is an error for who asks for it.

    The layout is read from zarr.json, and each row's slot from the shard's index; nothing about order is assumed.
    sealed: the sha256 of each file by its name below `path`, of a sealed artifact: a shard is compared with it when it is first
    used, and stays mapped, so that rows of another encoding are never taken for these.
    """

    def __init__(self, path: Path, sealed: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.sealed = sealed
        meta = _metadata(path, None if sealed is None else sealed.get(DESCRIPTION, ""))
        self.num_rows: int = meta["shape"][0]
        self.row_shape: tuple[int, ...] = tuple(meta["shape"][1:])
        self.dtype = np.dtype(meta["data_type"]).newbyteorder("<")
        self.shard_rows: int = meta["chunk_grid"]["configuration"]["chunk_shape"][0]
        self.row_bytes = int(np.prod(self.row_shape)) * self.dtype.itemsize
        self._shards: dict[int, tuple[memoryview, memoryview]] = {}

    def __len__(self) -> int:
        return self.num_rows

    def read(self, rows: Array) -> Array:
        """Rows (n, *row_shape) in the order asked for. Raises IndexError out of range, TfcliError on a damaged shard."""
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self.num_rows):
            raise IndexError(f"{self.path}: rows {rows.min()}..{rows.max()} of {self.num_rows}")
        parts = []
        for shard, slot in zip((rows // self.shard_rows).tolist(), (rows % self.shard_rows).tolist(), strict=True):
            data, offsets = self._shards.get(shard) or self._open(shard)
            start = offsets[slot]
            parts.append(data[start : start + self.row_bytes])
        joined = bytearray().join(parts)  # in C: 3 times as fast as an assignment in numpy for each row
        if len(joined) != len(rows) * self.row_bytes:
            raise _damaged(self.path, f"a row of {rows.min()}..{rows.max()} is missing")
        return np.frombuffer(joined, dtype=self.dtype).reshape(len(rows), *self.row_shape)

    def _open(self, shard: int) -> tuple[memoryview, memoryview]:
        import google_crc32c

        name = "/".join(["c", str(shard), *["0"] * len(self.row_shape)])
        path = self.path / name
        try:
            data = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            refuse_unreadable(path, error)
            raise _damaged(path, str(error)) from error
        index_bytes = self.shard_rows * 16
        if len(data) < index_bytes + 4:
            raise _damaged(path, f"{len(data)} bytes are too few")
        raw = data[-index_bytes - 4 : -4]
        if google_crc32c.value(raw.tobytes()) != int.from_bytes(data[-4:].tobytes(), "little"):
            raise _damaged(path, "checksum of the index")
        index = raw.view("<u8").reshape(-1, 2)
        expected = min(self.shard_rows, self.num_rows - shard * self.shard_rows)
        slots = index[:expected]
        there = slots[:, 0] != _MISSING
        offsets = np.where(there, slots[:, 0], len(data)).astype(np.int64)  # behind the end nothing can be read
        found = offsets[there]
        if (slots[there, 1] != self.row_bytes + 4).any():
            raise _damaged(path, "a row has another size")
        if found.size and (found.min() < 0 or found.max() + self.row_bytes + 4 > len(data) - index_bytes - 4):
            raise _damaged(path, "the index points outside the file")
        for start in found:
            end = start + self.row_bytes
            if google_crc32c.value(data[start:end].tobytes()) != int.from_bytes(
                data[end : end + 4].tobytes(), "little"
            ):
                raise _damaged(path, "checksum of a row")
        if self.sealed is not None:
            _compare(path, data, self.sealed.get(name, ""))
        self._shards[shard] = (np.asarray(data).data, offsets.data)
        return self._shards[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "sealed": self.sealed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["sealed"])  # type: ignore[misc]


def _compare(path: Path, data: Any, sealed: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sealed:
        why = f"its sha256 is {found[:12]}, the manifest says {sealed[:12] or 'nothing'}: it is another file, or made again since"
        raise _damaged(path, why)


def _metadata(path: Path, sealed: str | None = None) -> dict[str, Any]:
    """zarr.json, checked against what `create_rows` writes."""
    try:
        data = read_bounded(path / DESCRIPTION)
        meta: dict[str, Any] = json.loads(data)
        codec = meta["codecs"][0]
        inner = codec["configuration"]["codecs"]
        expected = {
            "zarr_format": meta["zarr_format"] == 3,
            "node_type": meta["node_type"] == "array",
            "data_type": meta["data_type"] in ("float16", "float32"),
            "fill_value": meta["fill_value"] == "NaN",
            "chunk_grid": meta["chunk_grid"]["configuration"]["chunk_shape"][1:] == meta["shape"][1:],
            "codecs": codec["name"] == "sharding_indexed"
            and codec["configuration"]["chunk_shape"] == [1, *meta["shape"][1:]]
            and codec["configuration"].get("index_location", "end") == "end"
            and [item["name"] for item in inner] == ["bytes", "crc32c"]
            and inner[0]["configuration"]["endian"] == "little",
        }
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        refuse_unreadable(path / DESCRIPTION, error)
        raise _damaged(path / DESCRIPTION, f"{type(error).__name__}: {error}") from error
    for name, holds in expected.items():
        if not holds:
            raise _damaged(
                path / DESCRIPTION, f"not an array that tfcli writes: {name} is {json.dumps(meta[name])[:200]}"
            )
    if sealed is not None:
        _compare(path / DESCRIPTION, data, sealed)
    return meta


_FIX = "run the stage that made it again with --force"


def _damaged(path: Path, why: str) -> TfcliError:
    fix = "run 'tfcli encode --retry-failed': it makes damaged shards again and keeps the others"
    return TfcliError(f"{path} is damaged", why=why, fix=fix, code=ExitCode.ARTIFACT)
