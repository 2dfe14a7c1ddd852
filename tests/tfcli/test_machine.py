"""`tfcli doctor` without a source: what is printed, and what is not."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stages.core.version import package_version

ROOT = Path(__file__).parents[2]
SECRETS = {
    "USER": "alice",
    "LOGNAME": "alice",
    "HF_TOKEN": "hf_wonderland",
    "WANDB_API_KEY": "wonderland",
    "KMP_AFFINITY": "wonderland",
    "PYTORCH_KERNEL_CACHE_PATH": "/home/alice/x",
    "NCCL_SOCKET_IFNAME": "alice0",
}


@pytest.mark.parametrize("args", [[], ["--json"]])
def test_nothing_private_and_no_colour_is_in_the_report(tmp_path: Path, args: list[str]) -> None:
    work = tmp_path / "alice"
    (work / "wonderland").mkdir(parents=True)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **SECRETS}
    env |= {"HOME": str(work), "TFCLI_WORK": str(work / "work"), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "tfcli", "doctor", *args]
    done = subprocess.run(command, cwd=work / "wonderland", env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for private in ("alice", "wonderland", str(tmp_path), str(ROOT), "\x1b", "HF_TOKEN"):
        assert private not in text
    if len(platform.node()) > 4:
        assert platform.node() not in text
    assert f"{package_version('torch')}" in text
    assert "PYTORCH_KERNEL_CACHE_PATH is set" in text


def test_text_and_json_say_the_same(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "9999")
    found = json.loads(world.call("doctor", "--json").stdout)
    lines = world.call("doctor").stdout.splitlines()
    named = {line[:15].strip(): line[16:] for line in lines[: lines.index("")]}
    assert found["processor"]["name"] in named["processor"]
    assert found["torch"]["version"] in named["torch"]
    assert f"open files {found['limits']['open files']:,}" in named["limits"]
    assert named["tfcli"] == f"{found['tfcli']}, commit {found['commit']}"
    assert named["environment"].startswith("OMP_NUM_THREADS=9999")
    assert [one["code"] for one in found["hazards"]].count("THREADS_TOO_MANY") == 1
    assert any(line.startswith("problem  OMP_NUM_THREADS=9999 is more than") for line in lines[lines.index("") :])
    quiet = world.call("doctor", "--quiet").stdout
    assert quiet.startswith("problem  OMP_NUM_THREADS=9999")
    assert "processor  " not in quiet


def test_a_machine_on_which_nothing_runs(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = world.call("doctor")
    assert result.exit_code == 5
    assert "stops    torch cannot be imported: ModuleNotFoundError" in result.stdout
    assert "error: nothing runs here: torch cannot be imported" in result.stderr
    assert "fix: install torch again" in result.stderr


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--limit", "500"], "--limit needs a SOURCE"),
        (["--workers", "2"], "--workers needs a SOURCE"),
        (["--set", "train.steps=3"], "--set needs a SOURCE"),
        (["novel.txt", "--work", "x"], "--work and a SOURCE exclude each other"),
    ],
)
def test_options_of_the_other_look_are_refused(
    world: Any, monkeypatch: pytest.MonkeyPatch, args: list[str], text: str
) -> None:
    result = world.call("doctor", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"error: {text}" in result.stderr
    monkeypatch.setenv("TFCLI_WORK", "x")  # not typed: no reason to refuse a source
    assert "exclude" not in world.call("doctor", "novel.txt").stderr
