"""inspect, verify, lineage: whole, damaged, moved and hostile artifacts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.builders import edit_manifest
from tfcli.commands.artifacts import sum_line

WORK = Path("work/tiny")


@pytest.fixture
def made(world: Any) -> Any:
    assert world.call("run", "tiny", "--until", "pack").exit_code == 0
    return world


def test_inspect(made: Any) -> None:
    text = made.call("inspect", "work/tiny/tokens").stdout
    for part in ("tokens  work/tiny/tokens", "tfcli tokenize", "rows", "judge.right_[red]", "data.bin", "latents"):
        assert part in text
    one = made.json("inspect", "work/tiny/tokens/", "--json")
    assert (one["kind"], one["content"], one["files"]["number"]) == ("tokens", {"rows": 3}, 2)
    (WORK / "checkpoint.partial").mkdir()
    whole = made.json("inspect", "work/tiny", "--json")
    assert [item["kind"] for item in whole["artifacts"]] == ["autoencoder", "latents", "tokens", "sequences"]
    assert whole["unfinished"] == ["checkpoint.partial"]
    assert "not finished" in made.call("inspect", "work/tiny").stdout


def test_nothing_there(made: Any) -> None:
    assert made.call("inspect", "work/none").exit_code == 2
    for command in ("inspect", "verify", "lineage"):
        assert made.call(command, "recipes").exit_code == 4


def test_verify_finds_every_kind_of_damage(made: Any) -> None:
    assert made.call("verify", "work/tiny").exit_code == 0
    file = WORK / "latents/data.bin"
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for bytes_now in (bytes(flipped), whole[:-1], b""):
        file.write_bytes(bytes_now)
        result = made.call("verify", "work/tiny/latents")
        assert result.exit_code == 4
        assert "error: work/tiny/latents/data.bin is damaged" in result.stderr
        assert made.call("verify", "work/tiny/sequences").exit_code == 0
        assert made.call("verify", "work/tiny/sequences", "--deep").exit_code == 4
    file.unlink()
    assert "data.bin is missing" in made.call("verify", "work/tiny/latents").stderr
    file.write_bytes(whole)
    report = made.json("verify", "work/tiny/sequences", "--deep", "--json")
    assert report["ok"]
    assert len(report["artifacts"]) == 4


def test_verify_does_not_trust_the_manifest(made: Any) -> None:
    def outside(manifest: Any) -> None:
        manifest["files"][0]["path"] = "../../../novel.txt"

    edit_manifest(WORK / "tokens", outside)
    result = made.call("verify", "work/tiny/tokens")
    assert result.exit_code == 4
    assert "files.0.path" in result.stderr
    edit_manifest(WORK / "latents", lambda manifest: manifest["files"].pop(0))
    assert "damaged" in made.call("verify", "work/tiny/latents").stderr


def test_sha256sum_agrees(made: Any) -> None:
    (WORK / "latents" / "stray").write_text("not ours")
    sums = made.call("verify", "work/tiny/latents", "--sha256sums", "--deep").stdout
    checked = subprocess.run(["sha256sum", "-c"], input=sums, text=True, cwd=WORK / "latents", capture_output=True)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count("OK") == 4
    assert sum_line("00", "a\nb\\c") == "\\00  a\\nb\\\\c\n"


def test_lineage_of_a_work_folder_shows_what_nothing_else_in_it_was_made_from(made: Any) -> None:
    trees = made.json("lineage", "work/tiny", "--json")["artifacts"]
    assert trees == [made.json("lineage", "work/tiny/sequences", "--json")]
    assert "tokens" in made.call("lineage", "work/tiny").stdout
    assert made.call("lineage", "work/nothing").exit_code == 2


def test_lineage_marks_what_has_changed(made: Any) -> None:
    text = made.call("lineage", "work/tiny/sequences").stdout
    assert text.count("source: text novel.txt") == 2
    assert "(as above)" in text
    assert "!!" not in text
    made.call("run", "tiny", "--only", "encode", "--set", "encode.batch_size=3", "--replace")
    assert "changed since" in made.call("lineage", "work/tiny/sequences").stdout
    shutil.rmtree(WORK / "autoencoder")
    tree = made.json("lineage", "work/tiny/latents", "--json")
    assert tree["inputs"][0]["state"] == "no longer there"
    assert made.call("verify", "work/tiny/latents", "--deep").exit_code == 4


def test_hostile_names_are_shown_as_text(made: Any) -> None:
    evil = WORK.parent / "[red]x[/b]\x1b[31m\n%s\u202e"
    shutil.copytree(WORK, evil)
    edit_manifest(
        evil / "tokens", lambda manifest: manifest["stats"].update({"[/b]\x1b]0;title\x07": "\x1b[2J[blink]"})
    )
    for args in (["inspect", str(evil)], ["inspect", str(evil / "tokens")], ["lineage", str(evil / "tokens")]):
        result = made.call(*args)
        assert result.exit_code == 0, result.stderr
        assert "[red]x[/b]\\x1b" in result.stdout or args[1] == str(evil)
        assert not set(result.stdout) & {"\x1b", "\x07", "\u202e"}
    gone = made.call("inspect", str(evil / "nothing"))
    assert gone.exit_code == 2
    assert len(gone.stderr.splitlines()) == 2
