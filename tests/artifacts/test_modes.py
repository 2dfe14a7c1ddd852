"""Weights have the mode of the umask, nothing half written stays, and a file that may not be read is not called missing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.artifacts.arrays import RowReader, create_rows, read_flat, write_flat, write_shard
from stages.artifacts.checkpoint import read_tensors, write_tensors
from stages.core.errors import ExitCode, TfcliError
from tests.builders import make_autoencoder


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_tensors_have_the_mode_of_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(3)})
        model = make_autoencoder(tmp_path / "autoencoder") / "model"
    finally:
        os.umask(before)
    for path in (tmp_path / "a.safetensors", *model.iterdir()):
        assert path.stat().st_mode & 0o777 == mode, path


@pytest.mark.parametrize("place", ["os.fsync", "os.replace"])
def test_nothing_of_tensors_that_cannot_be_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_tensors(tmp_path / "a", {"a": torch.ones(3)})
    monkeypatch.setattr(place, full)
    with pytest.raises(TfcliError) as caught:
        write_tensors(tmp_path / "a", {"a": torch.zeros(3)})
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert read_tensors(tmp_path / "a")["a"].tolist() == [1, 1, 1]


def test_a_file_that_may_not_be_read_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests may run as root, who may read every file: `open` stands in for one that may not."""
    write_tensors(tmp_path / "a", {"a": torch.ones(3)})
    write_flat(tmp_path / "flat", np.arange(3))
    create_rows(tmp_path / "rows", 1, (2, 1, 1, 1), "float32", 1)
    shard = write_shard(tmp_path / "rows", 0, np.zeros((1, 2, 1, 1, 1), np.float32))
    reader = RowReader(tmp_path / "rows")
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def refuse(*_arguments: Any, **_options: Any) -> Any:
        raise refused

    monkeypatch.setattr("io.open", refuse)
    monkeypatch.setattr("os.open", refuse)
    monkeypatch.setattr("safetensors.torch.load_file", lambda path: (_ for _ in ()).throw(FileNotFoundError(str(path))))
    monkeypatch.setattr("numpy.memmap", refuse)
    for read, path in (
        (lambda: read_tensors(tmp_path / "a"), tmp_path / "a"),
        (lambda: read_flat(tmp_path / "flat"), tmp_path / "flat" / "zarr.json"),
        (lambda: RowReader(tmp_path / "rows"), tmp_path / "rows" / "zarr.json"),
        (lambda: reader.read(np.array([0])), shard),
    ):
        with pytest.raises(TfcliError) as caught:
            read()
        assert (caught.value.what, caught.value.why) == (f"cannot read {path}", "Permission denied")
        assert (caught.value.code, caught.value.fix) == (5, "check the owner and the mode of that path")
    monkeypatch.undo()
    with pytest.raises(TfcliError) as caught:
        read_tensors(tmp_path / "none")
    assert caught.value.code == ExitCode.ARTIFACT
