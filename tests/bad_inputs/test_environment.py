"""What needs a process of its own: a hostile environment, signals to real stages with workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.bad_inputs.lab import Lab, Shelf

ROOT = Path(__file__).parents[2]
HOSTILE = {
    "GOPEN_REWRITE": "pictures=/nowhere",
    "WDS_CACHE": "/nowhere",
    "ZARR_DEFAULT_ZARR_FORMAT": "2",
    "ZARR_ARRAY__WRITE_EMPTY_CHUNKS": "false",
    "ZARR_CODEC_PIPELINE__PATH": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "PYTHONOPTIMIZE": "1",
}


@pytest.fixture
def lab(tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path / "lab", shelf, monkeypatch)


def command(stage: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "tfcli", stage, "-r", "recipe.toml", "--work", "work", "--device", "cpu", *more]


def spawn(stage: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command(stage, *more), env=env, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.slow
def test_a_hostile_environment_changes_nothing(lab: Lab) -> None:
    digests = []
    for environment in ({}, HOSTILE):
        for stage in ("encode", "tokenize", "pack"):
            done = spawn(stage, "--force", "--workers", "1", **environment)
            assert done.returncode == 0, done.stderr
        kinds = ("latents", "tokens", "sequences")
        digests.append(
            [json.loads((lab.folder / "work" / kind / "manifest.json").read_bytes())["digest"] for kind in kinds]
        )
    assert digests[0] == digests[1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_whole_group_stops_encoding_within_ten_seconds(lab: Lab, number: signal.Signals) -> None:
    """As Slurm or a terminal sends it: to the workers too. The run that goes on finds no picture spoilt."""
    for picture in range(3000):
        lab.add(f"more{picture}.png", lab.shelf.pictures[0])
    partial = lab.folder / "work" / "latents.partial" / "units"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command("encode", "--workers", "2"), env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and not list(partial.glob("*.json")):
        time.sleep(0.01)
    os.killpg(process.pid, number)
    began = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 75), stderr
    assert time.monotonic() - began < 10
    assert "Traceback" not in stderr
    records = [json.loads(path.read_bytes())["facts"] for path in partial.glob("*.json")]
    assert 0 < len(records) < 700
    assert sum(len(record["errors"]) for record in records) == 0
