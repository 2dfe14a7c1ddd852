"""The whole pipeline on the smoke recipe, as a user runs it: end to end, again, changed, and killed in the middle."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from stages.artifacts.arrays import RowReader
from stages.artifacts.checkpoint import Checkpoint
from stages.artifacts.samples import Samples
from stages.artifacts.scores import Scores
from tests.running import Done, processor_seconds_below, signalled, stopped, tfcli, tfcli_process

STAGES = ("vae", "encode", "tokenize", "pack", "train", "sample", "eval")


def run_smoke(work: Path, *more: str, run: Callable[..., Done] = tfcli) -> dict[str, Any]:
    done = run("run", "smoke", "--work", str(work), "--json", *more)
    assert done.code == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def digests(work: Path) -> dict[str, str]:
    return {path.parent.name: json.loads(path.read_bytes())["digest"] for path in sorted(work.glob("*/manifest.json"))}


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by processes of its own, as a user makes it."""
    work = tmp_path_factory.mktemp("smoke") / "work"
    with processor_seconds_below(60):
        run_smoke(work, run=tfcli_process)
    return work


def test_every_stage_left_its_artifact_and_the_page(smoke: Path) -> None:
    assert sorted(digests(smoke)) == [
        "autoencoder",
        "checkpoint",
        "latents",
        "samples",
        "scores",
        "sequences",
        "tokens",
    ]
    records = list(Samples.open(smoke / "samples").records())
    assert {record.mode for record in records} == {"prompts", "heldout_prompts", "captions", "continued", "free"}
    page = (smoke / "samples" / "index.html").read_text()
    pictures = [part.image for record in records for part in record.prompt + record.output if part.image]
    assert pictures
    for name in pictures:
        assert (smoke / "samples" / name).read_bytes().startswith(b"\x89PNG")
        assert name in page
    assert page.count("<svg") == 2
    assert (smoke / "samples" / "grid.png").exists()
    figures = Scores.open(smoke / "scores").figures()
    assert figures["text_to_image_count"] == 8
    assert {"heldout_text_loss", "heldout_image_loss", "image_to_text", "free"} <= set(figures)


def test_losses_fall_and_are_reported_apart(smoke: Path) -> None:
    rows = list(Checkpoint.open(smoke / "checkpoint").metrics())
    heldout = [row for row in rows if "heldout_text_loss" in row]
    assert [row["step"] for row in heldout] == [0, 20, 40]
    assert heldout[-1]["heldout_text_loss"] < heldout[0]["heldout_text_loss"]
    assert heldout[-1]["heldout_image_loss"] < heldout[0]["heldout_image_loss"]
    for row in heldout:  # by quarters of the noise levels: the whole is a mean of them
        parts = [value for name, value in row.items() if name.startswith("heldout_image_loss_t")]
        assert len(parts) > 1
        assert min(parts) <= row["heldout_image_loss"] <= max(parts)
    assert [row["step"] for row in rows if "text_loss" in row] == [10, 20, 30, 40]


def test_the_same_again_does_nothing_in_three_seconds(smoke: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in smoke.rglob("*") if path.is_file()}
    with processor_seconds_below(3):
        result = run_smoke(smoke, run=tfcli_process)
    assert [stage["state"] for stage in result["stages"]] == ["fresh"] * 7
    assert {path: path.stat().st_mtime_ns for path in smoke.rglob("*") if path.is_file()} == before


def test_one_changed_key_reruns_the_stages_that_read_it_and_says_so(smoke: Path) -> None:
    plan = run_smoke(smoke, "--set", "sample.free=1", "--dry-run")
    states = {stage["stage"]: stage["state"] for stage in plan["stages"]}
    assert states == {**dict.fromkeys(STAGES, "fresh"), "sample": "stale"}
    assert any("sample.free" in stage["reason"] for stage in plan["stages"])
    plan = run_smoke(smoke, "--set", "train.steps=50", "--replace", "--dry-run")
    states = {stage["stage"]: stage["state"] for stage in plan["stages"]}
    assert states == {**dict.fromkeys(STAGES[:4], "fresh"), "train": "stale", "sample": "waits", "eval": "waits"}


def test_rows_equal_what_plain_zarr_reads(smoke: Path) -> None:
    path = smoke / "latents" / "arrays" / "8x8"
    plain = zarr.open_array(str(path), mode="r")
    rows = np.array([0, 5, 200, plain.shape[0] - 1, 5])
    assert np.array_equal(RowReader(path).read(rows), plain.oindex[rows])


def ready_to_train(smoke: Path, work: Path) -> Path:
    """A work folder with all that training reads."""
    work.mkdir()
    for name in ("autoencoder", "latents", "tokens", "sequences"):
        (work / name).symlink_to(smoke / name)
    return work


def killed_then_finished(work: Path, stage: str, ready: Callable[[], bool], *more: str) -> None:
    """Run a stage, kill it as soon as `ready`, run it again to the end."""
    command = (stage, "-r", "smoke", "--work", str(work), *more)
    assert signalled(ready, *command).code == -signal.SIGKILL
    done = tfcli(*command)
    assert done.code == 0, done.stderr
    assert "going on" in done.stderr


def has_saved(work: Path) -> Callable[[], bool]:
    """Whether a training has saved."""
    return lambda: any((work / "checkpoint.partial" / "saves").glob("step-*/state.json"))


def test_killed_stages_finish_with_the_same_bytes(smoke: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    killed_then_finished(
        work,
        "vae",
        lambda: (work / "autoencoder.partial" / "state" / "state.json").exists(),
        "--set",
        "vae.save_every=10",
    )
    killed_then_finished(work, "encode", lambda: (work / "latents.partial" / "units" / "shard-00000.json").exists())
    for stage in ("tokenize", "pack"):
        assert tfcli(stage, "-r", "smoke", "--work", str(work)).code == 0
    killed_then_finished(work, "train", has_saved(work), "--set", "train.preview_every=15")
    expected = digests(smoke)
    assert digests(work) == {name: expected[name] for name in digests(work)}
    assert len(digests(work)) == 5
    assert not list(work.glob("*.partial"))
    # previews are drawn at other steps, and change nothing; those of the last step are the same to the byte
    drawn = [sorted(path.name for path in (at / "checkpoint/previews").glob("step-*.png")) for at in (smoke, work)]
    steps = [[int(name[5:13]) for name in names] for names in drawn]
    assert steps == [[20, 40], [15, 30, 40]]
    assert len({(at / "checkpoint/previews" / drawn[0][-1]).read_bytes() for at in (smoke, work)}) == 1


def test_a_stopped_training_with_muon_in_bf16_finishes_with_the_same_bytes(smoke: Path, tmp_path: Path) -> None:
    settings = ("--set", 'train.optimizer="muon"', "--set", 'train.precision="bf16"')
    whole, cut = ready_to_train(smoke, tmp_path / "whole"), ready_to_train(smoke, tmp_path / "cut")
    assert tfcli("train", "-r", "smoke", "--work", str(whole), *settings).code == 0
    command = ("train", "-r", "smoke", "--work", str(cut), *settings)
    assert stopped(has_saved(cut), *command, number=signal.SIGTERM).code == 75
    assert tfcli(*command).code == 0
    assert digests(cut)["checkpoint"] == digests(whole)["checkpoint"]


def test_fine_tuning_takes_over_ids_latents_and_weights_and_says_from_where(smoke: Path, tmp_path: Path) -> None:
    """Another source, on the autoencoder, the tokenizer and the checkpoint of an earlier run, named by their folders."""
    settings = {
        "source.seed": "1",
        "source.pictures": "60",
        "vae": f'{{kind = "pretrained", path = "{smoke / "autoencoder"}", heldout_pictures = 4}}',
        "tokenize.tokenizer": f'{{kind = "pretrained", path = "{smoke / "tokens"}"}}',
        "train.start_from": f'"{smoke / "checkpoint"}"',
        "train.steps": "10",
    }
    work = tmp_path / "work"
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    run_smoke(work, "--until", "train", *options)
    assert (work / "tokens" / "tokenizer.model").read_bytes() == (smoke / "tokens" / "tokenizer.model").read_bytes()
    content = {
        name: json.loads((folder / name / "manifest.json").read_bytes())["content"]
        for folder in (smoke, work)
        for name in ("latents", "tokens")
    }
    before = json.loads((smoke / "latents" / "manifest.json").read_bytes())["content"]
    assert content["latents"]["autoencoder"]["weights_sha256"] == before["autoencoder"]["weights_sha256"]
    assert content["latents"]["channel_mean"] != before["channel_mean"]
    child, parent = Checkpoint.open(work / "checkpoint"), Checkpoint.open(smoke / "checkpoint")
    assert child.content.channel_mean == parent.content.channel_mean
    assert child.manifest.inputs["start"].digest == parent.manifest.digest
    lineage = json.loads(tfcli("lineage", str(work / "checkpoint"), "--json").stdout)
    assert [below["kind"] for below in lineage["inputs"]] == ["sequences", "checkpoint"]
    assert lineage["inputs"][1]["state"] == "ok"
    again = run_smoke(work, "--until", "train", *options)
    assert {stage["state"] for stage in again["stages"]} == {"fresh"}
    plan = run_smoke(work, "--until", "train", *options[:-4], "--set", "train.steps=10", "--replace", "--dry-run")
    assert "start" in next(stage["reason"] for stage in plan["stages"] if stage["stage"] == "train")
    missing = tfcli("run", "smoke", "--work", str(work), "--set", f"train.start_from={tmp_path}/nowhere", "--dry-run")
    assert missing.code == 4
    assert "no checkpoint" in missing.stderr


def test_nothing_goes_on_with_latents_of_another_autoencoder(smoke: Path, tmp_path: Path) -> None:
    """Ids and rows have the same bytes whatever the latents are: a checkpoint, finished or begun, must notice all the same."""
    work = tmp_path / "work"
    shutil.copytree(smoke, work)
    long = ("-r", "smoke", "--work", str(work), "--replace", "--set", "train.steps=100000")
    assert stopped(has_saved(work), "train", *long, number=signal.SIGTERM).code == 75
    other = ("--set", "vae.steps=61")
    run_smoke(work, "--until", "pack", "--replace", *other)
    same = Path("train/ids/c/0/0")
    assert (work / "sequences" / same).read_bytes() == (smoke / "sequences" / same).read_bytes()
    states = {stage["stage"]: stage for stage in run_smoke(work, *other, "--replace", "--dry-run")["stages"]}
    assert [states[name]["state"] for name in STAGES] == ["fresh"] * 4 + ["stale", "waits", "waits"]
    assert "sequences" in states["train"]["reason"]
    sampled = tfcli("sample", "-r", "smoke", "--work", str(work), *other, "--force")
    assert sampled.code == 4
    assert "made from other sequences" in sampled.stderr
    refused = tfcli("train", *(word for word in long if word != "--replace"), *other)
    assert refused.code == 4
    assert "sequences changed" in refused.stderr


def test_sigterm_saves_and_says_how_to_go_on(smoke: Path, tmp_path: Path) -> None:
    work = ready_to_train(smoke, tmp_path / "work")
    command = ("train", "-r", "smoke", "--work", str(work), "--set", "train.steps=100000")
    done = signalled(has_saved(work), *command, number=signal.SIGTERM)
    assert done.code == 75
    assert "state saved" in done.stderr
    assert "run the same command again" in done.stderr


def test_a_damaged_artifact_is_named_before_it_is_used(smoke: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(smoke, work)
    shard = next(path for path in (work / "latents" / "arrays" / "8x8" / "c").rglob("*") if path.is_file())
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(bytes(data))
    verified = tfcli("verify", str(work / "latents"))
    assert verified.code == 4
    assert shard.name in verified.stderr + verified.stdout
    shard.write_bytes(bytes(data[:-1]))
    trained = tfcli("train", "-r", "smoke", "--work", str(work), "--set", "train.steps=5", "--replace")
    assert trained.code == 4
    assert "is damaged" in trained.stderr
