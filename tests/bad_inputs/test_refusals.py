"""Whatever the disk refuses, at whatever operation: exit code 5 with the system's word, and the next run ends well."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.bad_inputs.faults import PRETRAINED
from tests.bad_inputs.lab import Lab, Outcome, Shelf
from tests.bad_inputs.refusals import Refusals

NUMBERS = (errno.EIO, errno.ESTALE, errno.EDQUOT, errno.ENOTCONN, errno.EACCES, errno.ETIMEDOUT)
# before each stage: what of a trained work folder goes
STAGES = {"vae": "autoencoder", "encode": "latents", "tokenize": "tokens", "pack": "sequences", "train": "checkpoint"}
TRIES = 10  # for each stage, of its 50 to 150 operations


def ready(folder: Path, shelf: Shelf, patch: pytest.MonkeyPatch, stage: str) -> tuple[Lab, tuple[str, ...]]:
    lab = Lab(folder, shelf, patch)
    lab.finish(trained=True)
    if stage == "vae":
        shutil.copytree(shelf.autoencoder / "model", lab.folder / "vae")
    shutil.rmtree(lab.folder / "work" / STAGES[stage])
    return lab, PRETRAINED if stage == "vae" else ()


def run_refused(lab: Lab, stage: str, more: tuple[str, ...], number: int, place: int) -> tuple[Outcome, Refusals]:
    """The stage, with the operation at `place` refused (-1: none)."""
    with pytest.MonkeyPatch.context() as patch:
        refusals = Refusals(lab.folder / "work", patch, number, place)
        shown = lab._lines

        def lines(code: int, stderr: str) -> tuple[str, ...]:
            refusals.stop()
            return shown(code, stderr)

        patch.setattr(lab, "_lines", lines)
        return lab.run(stage, *more), refusals


@pytest.mark.parametrize("stage", STAGES)
def test_any_refusal_at_any_place_is_code_5_and_the_next_run_ends_well(
    tmp_path: Path, shelf: Shelf, stage: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lab, more = ready(tmp_path / "count", shelf, patch, stage)
        outcome, refusals = run_refused(lab, stage, more, 0, -1)
        assert outcome.code == 0, outcome.stderr
        total = len(refusals.names)
        assert {"fsync", "replace", "write", "close"} <= set(refusals.names)
    codes = []
    for attempt, place in enumerate(np.linspace(0, total - 1, TRIES).round().astype(int).tolist()):
        number = NUMBERS[attempt % len(NUMBERS)]
        with pytest.MonkeyPatch.context() as patch:
            lab, more = ready(tmp_path / f"try{attempt}", shelf, patch, stage)
            outcome, refusals = run_refused(lab, stage, more, number, place)
            assert refusals.struck
            where = f"{refusals.names[place]}, number {place}: {outcome.stderr}"
            assert outcome.code in (0, 5), where  # 0: what only saves time, such as the hashes of the source
            assert outcome.code == 0 or os.strerror(number) in outcome.stderr, where
            assert outcome.code == 0 or "work" in outcome.lines[0], where
            codes.append(outcome.code)
            again = lab.run(stage, *more)
            assert again.code == 0, f"after {where}then {again.stderr}"
            left = [path.name for path in (lab.folder / "work").rglob("*") if ".tmp" in path.name]
            left += [path.name for path in (lab.folder / "work").iterdir() if path.suffix == ".partial"]
            assert left == [], where
        shutil.rmtree(lab.folder)
    assert codes.count(5) > TRIES // 2


@pytest.mark.parametrize("number", NUMBERS)
def test_the_last_resort_never_calls_the_system_a_bug(number: int) -> None:
    from tfcli.app import as_failure

    for error in (OSError(number, os.strerror(number)), OSError(number, os.strerror(number), "work/x")):
        failure = as_failure(error)
        assert failure.code == 5
        assert os.strerror(number) in failure.why
        assert ("work/x" in failure.what) == (error.filename is not None)
