"""A power cut at any moment of a stage: the next run ends well, with the same bytes, and without --force."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.bad_inputs.lab import Shelf, sets
from tests.bad_inputs.power import Disk
from tests.bad_inputs.test_refusals import STAGES, ready

MORE = {"train": sets("train.steps=3", "train.save_every=1", "train.log_every=1")}
# States after a cut that are tried; there are 9 to 63 for a stage, and the slow test tries them all.
TRIES = {"encode": 30, "tokenize": 10, "pack": 10, "vae": 8, "train": 8}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("stage", STAGES)
def test_the_next_run_ends_well_after_a_cut_at_any_moment(
    tmp_path: Path, shelf: Shelf, stage: str, strict: bool
) -> None:
    try_cuts(tmp_path, shelf, stage, strict=strict, tries=TRIES[stage])


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("stage", STAGES)
def test_the_next_run_ends_well_after_each_cut(tmp_path: Path, shelf: Shelf, stage: str, strict: bool) -> None:
    try_cuts(tmp_path, shelf, stage, strict=strict, tries=10**6)


def try_cuts(tmp_path: Path, shelf: Shelf, stage: str, *, strict: bool, tries: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lab, more = ready(tmp_path / "lab", shelf, patch, stage)
        more += MORE.get(stage, ())
        work = lab.folder / "work"
        with pytest.MonkeyPatch.context() as inner:
            disk = Disk(work, tmp_path / "cuts", inner, strict=strict)
            outcome = lab.run(stage, *more)
            assert outcome.code == 0, outcome.stderr
            disk.cut()
        wanted = lab.manifest(STAGES[stage])["digest"]
        assert len(set(disk.lost)) > 3  # some cuts took something
        tried = np.unique(np.linspace(0, disk.count - 1, min(tries, disk.count)).round().astype(int))
        for number in tried.tolist():
            shutil.rmtree(work)
            (tmp_path / "cuts" / str(number)).rename(work)
            again = lab.run(stage, *more)
            assert again.code == 0, f"cut {number} of {disk.count}: {again.stderr}"
            assert lab.manifest(STAGES[stage])["digest"] == wanted, f"cut {number} of {disk.count}"
            assert lab.run("verify", f"work/{STAGES[stage]}").code == 0


def test_the_copy_loses_what_was_not_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    (folder / "old").mkdir(parents=True)
    (folder / "kept").write_text("x")
    disk = Disk(folder, tmp_path / "cuts", monkeypatch, strict=True)
    (folder / "new").write_text("x")
    (folder / "kept").write_text("xyz")
    (folder / "made").mkdir()
    (folder / "made" / "file").write_text("x")
    for flushed in (folder / "new", folder):
        descriptor = os.open(flushed, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    disk.cut()
    shown = []
    for number in range(disk.count):
        copy = tmp_path / "cuts" / str(number)
        shown.append({str(path.relative_to(copy)): path.stat().st_size for path in copy.rglob("*") if path.is_file()})
    assert shown == [{"kept": 0}, {"kept": 0, "new": 1}]
    assert (tmp_path / "cuts" / "1" / "made").is_dir()
