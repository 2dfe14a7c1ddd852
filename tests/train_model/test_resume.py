"""A training that is killed again and again ends with the bytes of one that ran through."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.artifacts.sequences import Sequences

ROOT = Path(__file__).parents[2]


def tfcli(stage: str, work: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "tfcli", stage, "-r", "smoke", "--work", str(work), "-q", *more]


def digest(work: Path) -> str:
    found: str = json.loads((work / "checkpoint" / "manifest.json").read_bytes())["digest"]
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("resume") / "work"
    for stage in ("vae", "encode", "tokenize", "pack"):
        subprocess.run(tfcli(stage, work), cwd=ROOT, check=True)
    return work


def ready(data: Path, work: Path) -> Path:
    work.mkdir()
    for name in ("autoencoder", "latents", "tokens", "sequences"):
        (work / name).symlink_to(data / name)
    return work


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_at_three_saves_with_other_workers_it_ends_with_the_same_bytes(
    data: Path, tmp_path: Path, precision: str
) -> None:
    settings = [f'train.precision="{precision}"', "train.steps=60", "train.batch_rows=4", "train.micro_rows=2"]
    given = [part for setting in settings for part in ("--set", setting)]
    rows = Sequences.open(data / "sequences").content.num_rows
    assert rows < 60 * 4  # an epoch ends inside
    whole, cut = ready(data, tmp_path / "whole"), ready(data, tmp_path / "cut")
    subprocess.run(tfcli("train", whole, *given), cwd=ROOT, check=True)
    for workers, step in enumerate((10, 30, 50)):
        command = tfcli("train", cut, *given, "--workers", str(workers))
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        mark = cut / "checkpoint.partial" / "saves" / f"step-{step:08d}" / "state.json"
        while not mark.exists():
            assert process.poll() is None, "over before it could be killed"
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(tfcli("train", cut, *given, "--workers", "3"), cwd=ROOT, check=True)
    assert digest(cut) == digest(whole)


@pytest.mark.slow
def test_torchrun_trains_stops_on_a_signal_and_resumes_alone(data: Path, tmp_path: Path) -> None:
    work = ready(data, tmp_path / "work")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    many = [
        *launch,
        *tfcli("train", work, "--device", "cpu", "--set", 'train.sharding="full"', "--set", "train.steps=2000")[2:],
    ]
    process = subprocess.Popen(many, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    saves = work / "checkpoint.partial" / "saves"
    while not any(saves.glob("step-*/state.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    shown, errors = process.communicate(timeout=60)
    assert process.returncode == 1  # torchrun's own
    assert shown == ""
    assert errors.count("error: stopped by SIGTERM") == 1
    assert "state saved at step" in errors
    changed = subprocess.run(tfcli("train", work), cwd=ROOT, capture_output=True, text=True, check=False)
    assert changed.returncode == 4
    assert "train.steps changed; it holds saves up to step-" in changed.stderr
    assert sorted(saves.glob("step-*/state.json"))
    newest = int(sorted(saves.glob("step-*"))[-1].name.removeprefix("step-"))
    alone = tfcli("train", work, "--set", "train.steps=2000", "--set", "train.save_every=5")
    process = subprocess.Popen(alone, cwd=ROOT)
    later = saves / f"step-{(newest // 5 + 2) * 5:08d}" / "state.json"
    while not later.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
