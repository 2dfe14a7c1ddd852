"""tfcli run and the single stages: what runs, what is kept, what is said about it, and where."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.builders import edit_manifest
from tfcli.commands.run import headlines

ALL = ["vae", "encode", "tokenize", "pack", "train", "sample", "eval"]


def test_a_second_run_makes_nothing(world: Any) -> None:
    first = world.json("run", "tiny", "--json")
    assert world.made == ALL
    assert [stage["state"] for stage in first["stages"]] == ["missing"] + ["missing"] * 6
    second = world.json("run", "tiny", "--json")
    assert world.made == []
    assert {stage["state"] for stage in second["stages"]} == {"fresh"}
    assert [a["digest"] for a in first["stages"]] == [b["digest"] for b in second["stages"]]
    assert second["index"] == "work/tiny/samples/index.html"
    assert second["scores"]["judge"] == {"right_[red]": 0.25}


@pytest.mark.parametrize(
    ("setting", "expected", "reason"),
    [
        ("train.steps=8", ["train", "sample", "eval"], "train.steps changed"),
        ("eval.free=3", ["eval"], "eval.free changed"),
        ("seed=5", ALL, "seed changed"),
        ("train.log_every=99", [], ""),
    ],
)
def test_a_setting_reruns_the_stages_that_read_it(world: Any, setting: str, expected: list[str], reason: str) -> None:
    world.call("run", "tiny")
    result = world.json("run", "tiny", "--set", setting, "--replace", "--json")
    assert world.made == expected
    stale = [stage for stage in result["stages"] if stage["state"] != "fresh"]
    assert not stale or stale[0]["reason"] == reason


def test_a_changed_source_is_named(world: Any) -> None:
    world.call("run", "tiny")
    (world.folder / "novel.txt").write_text("twice upon a time")
    result = world.json("vae", "-r", "tiny", "--replace", "--json")
    assert (result["state"], result["reason"]) == ("stale", "source files changed")


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["run", "tiny", "--set", "train.steps=8"], "train: train.steps changed"),
        (["train", "-r", "tiny", "--set", "train.steps=8"], "train: train.steps changed"),
        (["run", "tiny", "--set", "encode.batch_size=3"], "encode: encode.batch_size changed"),
        (["encode", "-r", "tiny", "--set", "encode.batch_size=3"], "encode: encode.batch_size changed"),
        (["pack", "-r", "tiny", "--set", "pack.row_length=64"], "pack: pack.row_length changed"),
        (["run", "tiny", "--set", "seed=5"], "vae: seed changed"),
    ],
)
def test_a_finished_training_is_not_replaced_without_the_word(world: Any, args: list[str], why: str) -> None:
    """Neither itself nor what it was built on, by no command; a dry run says the same, and the checkpoint stays."""
    world.call("run", "tiny")
    before = (world.folder / "work/tiny/checkpoint/manifest.json").read_bytes()
    for more in ([], ["--dry-run"], ["-q"], ["--json"]):
        result = world.call(*args, *more)
        assert result.exit_code == 4, result.stderr
        assert "work/tiny/checkpoint is a finished training" in result.stderr
        assert f"why: {why}" in result.stderr
        assert "--work" in result.stderr
        assert "--replace" in result.stderr
        assert "would run" not in result.stdout
    assert world.made == []
    assert (world.folder / "work/tiny/checkpoint/manifest.json").read_bytes() == before
    assert world.call(*args, "--replace").exit_code == 0
    assert world.made


def test_what_no_training_was_built_on_is_made_again_without_a_word(world: Any) -> None:
    world.call("run", "tiny", "--until", "pack")
    assert world.call("run", "tiny", "--set", "pack.row_length=64", "--until", "pack").exit_code == 0
    world.call("run", "tiny", "--set", "pack.row_length=64")
    assert world.call("run", "tiny", "--set", "pack.row_length=64", "--set", "sample.free=1").exit_code == 0
    assert world.made == ["sample"]


def test_somebody_at_the_terminal_is_asked(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.pipeline import BY_NAME
    from tfcli.commands import session
    from tfcli.options import Call

    world.call("run", "tiny")
    call = Call("tiny", ("train.steps=8",), None, "cpu", 0, False, False, False, False, False)
    workspace = session.open_workspace(call)
    for attended, answer in ((False, True), (True, False), (True, True)):
        asked: list[str] = []
        monkeypatch.setattr("sys.stdin.isatty", lambda attended=attended: attended, raising=False)
        monkeypatch.setattr("sys.stderr.isatty", lambda attended=attended: attended, raising=False)
        monkeypatch.setattr(session.typer, "confirm", lambda text, a=answer, q=asked, **_: q.append(text) or a)
        if attended and answer:
            assert session.may_replace(workspace, [BY_NAME["train"]], call)
        else:
            with pytest.raises(Exception, match="finished training"):
                session.may_replace(workspace, [BY_NAME["train"]], call)
        assert bool(asked) == attended


def test_what_a_kill_left_of_a_replaced_artifact_is_removed_and_never_listed(world: Any) -> None:
    world.call("run", "tiny")
    left = world.folder / "work/tiny/.tokens.replaced-0123456789abcdef"
    shutil.copytree(world.folder / "work/tiny/tokens", left)
    (left / "data.bin").unlink()
    assert world.call("verify", "work/tiny").exit_code == 0
    result = world.call("run", "tiny")
    assert (result.exit_code, world.made) == (0, [])
    assert "left over from an interrupted run" in result.stderr
    assert not left.exists()


def test_an_older_manifest_is_used_and_said_once(world: Any) -> None:
    world.call("run", "tiny")
    edit_manifest(world.folder / "work/tiny/tokens", lambda raw: raw.update(envelope=2))
    result = world.call("run", "tiny")
    assert result.exit_code == 0, result.stderr
    assert world.made == []
    assert result.stderr.count("an older tfcli made it") == 1


def test_a_forced_stage_with_the_same_digest_leaves_later_stages_fresh(world: Any) -> None:
    world.call("run", "tiny")
    world.call("vae", "-r", "tiny", "--force")
    assert world.made == ["vae"]
    world.call("run", "tiny")
    assert world.made == []


def test_other_settings_with_the_same_digest_leave_later_stages_fresh(world: Any) -> None:
    world.call("run", "tiny")
    plan = world.json("run", "tiny", "--set", "vae.steps=9", "--replace", "--dry-run", "--json")
    assert world.made == []
    assert [stage["state"] for stage in plan["stages"]] == ["stale"] + ["waits"] * 6
    world.call("run", "tiny", "--set", "vae.steps=9", "--replace")
    assert world.made == ["vae"]


def test_eval_does_not_wait_for_sample(world: Any) -> None:
    world.call("run", "tiny")
    plan = world.json("run", "tiny", "--set", "sample.free=1", "--dry-run", "--json")
    assert [stage["state"] for stage in plan["stages"]] == ["fresh"] * 5 + ["stale", "fresh"]


def test_only_until_and_force(world: Any) -> None:
    world.call("run", "tiny", "--until", "pack")
    assert world.made == ALL[:4]
    world.call("run", "tiny", "--only", "encode", "--force")
    assert world.made == ["encode"]
    assert world.call("run", "tiny", "--only", "vae", "--until", "pack").exit_code == 2
    result = world.call("run", "tiny", "--until", "bake")
    assert result.exit_code == 2
    assert "no stage bake" in result.stderr
    assert "tokenize" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGHUP, 75)])
def test_a_signal_stops_and_the_next_run_goes_on(world: Any, number: int, code: int) -> None:
    def hit(runtime: Any) -> None:
        os.kill(os.getpid(), number)
        runtime.interrupts.check()

    world.during["encode"] = hit
    result = world.call("run", "tiny")
    assert result.exit_code == code
    assert result.stdout == ""
    assert f"error: stopped by {signal.Signals(number).name}" in result.stderr
    assert world.made == ["vae", "encode"]
    world.during.clear()
    second = world.json("run", "tiny", "--json")
    assert [stage["state"] for stage in second["stages"]][:3] == ["fresh", "partial", "missing"]
    assert world.made == ALL[1:]


def test_a_signal_that_a_stage_overlooks_stops_before_the_next(world: Any) -> None:
    world.during["vae"] = lambda _runtime: os.kill(os.getpid(), signal.SIGTERM)
    assert world.call("run", "tiny").exit_code == 75
    assert world.made == ["vae"]


def test_force_begins_anew_where_a_stage_was_not_finished(world: Any) -> None:
    def hit(runtime: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        runtime.interrupts.check()

    world.during["vae"] = hit
    world.call("vae", "-r", "tiny")
    (world.folder / "work/tiny/autoencoder.partial/half").write_text("doubtful")
    world.during.clear()
    assert world.call("vae", "-r", "tiny", "--force").exit_code == 0
    assert not (world.folder / "work/tiny/autoencoder/half").exists()


def test_kill_in_the_middle_of_a_stage(world: Any) -> None:
    world.during["pack"] = lambda _runtime: os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if child == 0:
        world.call("run", "tiny")
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    world.during.clear()
    killed = world.json("run", "tiny", "--json")
    assert [stage["state"] for stage in killed["stages"]][:5] == ["fresh"] * 3 + ["partial", "missing"]
    straight = world.json("run", "tiny", "--json", "--work", "other")
    assert [a["digest"] for a in killed["stages"]] == [b["digest"] for b in straight["stages"]]


def test_a_stage_without_its_input(world: Any) -> None:
    result = world.call("train", "-r", "tiny")
    assert result.exit_code == 4
    assert "error: no sequences at" in result.stderr
    assert "tfcli pack" in result.stderr
    dry = world.call("train", "-r", "tiny", "--dry-run")
    assert dry.exit_code == 0
    assert "waits" in dry.stdout


def test_force_without_the_input_keeps_what_is_there(world: Any) -> None:
    world.call("run", "tiny")
    (world.folder / "work/tiny/sequences/manifest.json").unlink()
    assert world.call("train", "-r", "tiny", "--force").exit_code == 4
    assert (world.folder / "work/tiny/checkpoint/manifest.json").exists()


def test_force_mends_a_manifest_that_cannot_be_read(world: Any) -> None:
    world.call("run", "tiny")
    (world.folder / "work/tiny/scores/manifest.json").write_text("{")
    result = world.call("eval", "-r", "tiny")
    assert result.exit_code == 4
    assert "not JSON" in result.stderr
    assert world.call("eval", "-r", "tiny", "--force").exit_code == 0


def test_a_lost_file_makes_the_stage_stale(world: Any) -> None:
    world.call("run", "tiny")
    (world.folder / "work/tiny/tokens/data.bin").unlink()
    result = world.json("run", "tiny", "--json")
    assert world.made == ["tokenize"]
    assert "data.bin is missing" in result["stages"][2]["reason"]


def test_stdout_is_the_result_and_stderr_the_rest(world: Any) -> None:
    result = world.call("vae", "-r", "tiny", "-q")
    assert (result.stdout, result.stderr) == ("work/tiny/autoencoder\n", "")
    result = world.call("encode", "-r", "tiny")
    assert result.stdout == "work/tiny/latents\n"
    assert "encode: missing, not made yet" in result.stderr
    assert "encode: 0/2 things" in result.stderr
    assert "encode: 2/2 things (100%)" in result.stderr
    assert "\x1b" not in result.stderr
    one = world.json("tokenize", "-r", "tiny", "--json", "--work", "work/tiny/")
    assert set(one) == {"stage", "path", "kind", "digest", "fingerprint", "state", "reason", "seconds", "stats"}
    assert world.call("run", "tiny", "-q").stdout.splitlines()[-1] == "work/tiny/scores"


def test_the_table_of_a_run(world: Any) -> None:
    result = world.call("run", "tiny")
    assert result.exit_code == 0
    for text in ("ran in", "right_[red]", "0.25", "samples: work/tiny/samples/index.html", "total:"):
        assert text in result.stdout
    assert "fresh" in world.call("run", "tiny").stdout


def test_flags_that_contradict(world: Any) -> None:
    assert world.call("vae", "-r", "tiny", "-q", "--json").exit_code == 2
    assert world.call("vae", "-r", "tiny", "-q", "-v").exit_code == 2
    assert world.call("vae", "-r", "tiny", "--workers", "-1").exit_code == 2


def test_work_below_a_file_is_refused_before_any_work(world: Any) -> None:
    result = world.call("vae", "-r", "tiny", "--work", "novel.txt/deep")
    assert result.exit_code == 2
    assert "novel.txt is a file" in result.stderr
    assert world.made == []


def test_a_foreign_folder_is_left_alone(world: Any) -> None:
    mine = world.folder / "work/tiny/autoencoder"
    mine.mkdir(parents=True)
    (mine / "thesis.tex").write_text("years of work")
    for flags in ([], ["--force"]):
        assert world.call("vae", "-r", "tiny", *flags).exit_code == 2
        assert (mine / "thesis.tex").exists()


def test_prompts_go_beside_the_samples_of_the_recipe(world: Any) -> None:
    world.call("run", "tiny")
    hostile = 'a "[red]\\ \x1b[31mdog'
    first = world.json("sample", "-r", "tiny", "-p", hostile, "-p", "two", "--set", "sample.free=2", "--json")
    assert Path(first["path"]).name == "samples-" + first["fingerprint"][:8]
    manifest = json.loads((Path(first["path"]) / "manifest.json").read_text())
    assert manifest["config"]["sample"]["prompts"] == [hostile, "two"]
    assert [manifest["config"]["sample"][key] for key in ("heldout_prompts", "captions", "continued", "free")] == [
        0,
        0,
        0,
        2,
    ]
    assert world.json("sample", "-r", "tiny", "--json")["state"] == "fresh"
    again = world.json("sample", "-r", "tiny", "-p", hostile, "-p", "two", "--set", "sample.free=2", "--json")
    assert (again["state"], again["path"]) == ("fresh", first["path"])


@pytest.mark.parametrize("args", [["-p", " "], ["-p", "\udcff"], ["-p", "x", "--set", 'sample.prompts=["y"]']])
def test_prompts_that_cannot_be(world: Any, args: list[str]) -> None:
    assert world.call("sample", "-r", "tiny", *args).exit_code == 2


def test_a_checkpoint_alone_is_sampled_as_its_recipe_says(world: Any) -> None:
    world.call("run", "tiny", "--set", "sample.generation.guidance=7", "--set", "sample.free=3")
    (world.folder / "recipes" / "tiny.toml").unlink()
    for given in ("work/tiny", "work/tiny/checkpoint"):
        made = world.json("sample", given, "a dog", "--steps", "9", "--temperature", "0.5", "--seed", "4", "--json")
        manifest = json.loads((Path(made["path"]) / "manifest.json").read_text())
        generation = manifest["config"]["sample"]["generation"]
        assert (generation["guidance"], generation["temperature"], generation["sampler"]["steps"]) == (7, 0.5, 9)
        assert (manifest["config"]["sample"]["prompts"], manifest["config"]["sample"]["free"]) == (["a dog"], 0)
        assert manifest["seed"] == 4
        assert Path(made["path"]).parent == Path("work/tiny")
        assert made["index"] == f"{made['path']}/index.html"
        assert made["state"] == ("missing" if given == "work/tiny" else "fresh")
    elsewhere = world.call("sample", "work/tiny", "a dog", "--work", "other", "-q")
    assert elsewhere.stdout.startswith("other/samples-")


def test_another_sampler_begins_with_its_own_steps(world: Any) -> None:
    world.call("run", "tiny")
    made = world.json("sample", "work/tiny", "a", "--sampler", "ddpm", "--steps", "9", "--json")
    manifest = json.loads((Path(made["path"]) / "manifest.json").read_text())
    sampler = manifest["config"]["sample"]["generation"]["sampler"]
    assert (sampler["kind"], sampler["steps"]) == ("ddpm", 9)


def test_neither_a_checkpoint_nor_a_recipe(world: Any) -> None:
    result = world.call("sample")
    assert (result.exit_code, "neither a checkpoint nor a recipe" in result.stderr) == (2, True)
    world.call("run", "tiny")
    checkpoint = world.folder / "work/tiny/checkpoint"
    (checkpoint / "recipe.json").write_text('{"train": {}}')  # as it was once

    def sizes(manifest: Any) -> None:
        for entry in manifest["files"]:
            entry["bytes"] = (checkpoint / entry["path"]).stat().st_size

    edit_manifest(checkpoint, sizes)
    result = world.call("sample", "work/tiny", "a")
    assert (result.exit_code, "does not say how to sample it" in result.stderr) == (4, True)


def test_the_page_opens_when_asked(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    world.call("run", "tiny")
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    made = world.json("sample", "work/tiny", "a", "--json", "--open")
    assert opened == [(world.folder / made["index"]).resolve().as_uri()]
    monkeypatch.setattr("webbrowser.open", lambda _url: False)
    result = world.call("sample", "work/tiny", "a", "--open", "-q")
    assert (result.exit_code, "no browser opened" in result.stderr) == (0, True)
    assert made["path"] in result.stdout


def test_the_scores_that_are_shown_are_those_of_the_first_side_with_their_numbers() -> None:
    scores = {
        "heldout_image_loss": 0.5,
        "text_to_image": 0.862,
        "text_to_image_count": 116,
        "alike_text_to_image": 0.1,
        "alike_text_to_image_count": 3,
        "new_things_text_to_image": 0.2,
    }
    assert headlines(scores) == {"heldout_image_loss": 0.5, "text_to_image": "0.862 (116)"}
