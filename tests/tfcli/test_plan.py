"""'tfcli plan' and 'tfcli train --dry-run': figures before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.artifacts.tokens import Tokens
from stages.recipe import load_recipe
from tests.bad_inputs.lab import Lab, Shelf, sets
from tfcli.commands.plan import data_of, make_plan

SMALL = ("--set", "model.width=64", "--set", "model.layers=2", "--set", "pack.row_length=512")


def test_plan_prints_figures_and_makes_nothing(world: Any) -> None:
    found = world.json("plan", "tiny", *SMALL, "--gpus", "2xL4", "--json")
    assert found["fits"]
    assert found["machine"]["count"] == 2
    assert found["peak_bytes"] == sum(found["memory"].values())
    assert found["seconds"] * found["elements_per_second"] > 0
    assert not (world.folder / "work").exists()
    shown = world.call("plan", "tiny", *SMALL, "--gpus", "2xL4").stdout
    assert "2 x L4" in shown


def test_plan_fails_where_it_does_not_fit(world: Any) -> None:
    result = world.call("plan", "tiny", *SMALL, "--set", "train.batch_rows=40000", "--gpus", "L4")
    assert result.exit_code == 5
    assert "fix: set train.micro_rows = " in result.stderr


def test_plan_says_what_it_lacks(world: Any) -> None:
    result = world.call("plan", "tiny", "--set", "vae.kind=pretrained", "--set", "vae.path=x", "--gpus", "L4")
    assert result.exit_code == 2
    assert "a finished autoencoder" in result.stderr
    assert world.call("plan", "tiny", "--gpus", "Z80").exit_code == 2


def test_dry_run_of_training_shows_the_plan(world: Any) -> None:
    shown = world.json("train", "-r", "tiny", *SMALL, "--dry-run", "--json", "--device", "cpu")
    assert shown["state"] == "waits"
    assert shown["machine"]["name"] == "cpu"
    assert shown["memory"]["weights"] == 4 * sum(shown["parameters"].values())
    assert not (world.folder / "work").exists()


AUTO = ('pack.row_length="auto"', 'tokenize.tokenizer.vocab_size="auto"', 'model.rope_base="auto"')


def test_what_the_data_will_decide_is_guessed_and_said(world: Any) -> None:
    given = (*SMALL[:4], *sets(*AUTO), "--gpus", "L4")
    found = world.json("plan", "tiny", *given, "--json")
    assert found["guessed"] == {"tokenize.tokenizer.vocab_size": 2000, "pack.row_length": 256}
    shown = world.call("plan", "tiny", *given).stdout
    assert "tokenize.tokenizer.vocab_size 2,000, pack.row_length 256" in " ".join(shown.split())
    number = sets("pack.row_length=256", "tokenize.tokenizer.vocab_size=2000")
    alike = world.json("plan", "tiny", *SMALL[:4], *number, "--gpus", "L4", "--json")
    assert alike == {**found, "guessed": {}}
    assert "guessed" not in world.call("plan", "tiny", *SMALL[:4], *number, "--gpus", "L4").stdout


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(("size", "length"), [(64, 256), (128, 1024), (256, 4096), (1024, 4096)])
def test_larger_pictures_ask_for_longer_rows(size: int, length: int) -> None:
    assert data_of(load_recipe("tiny", (*AUTO, f"images.size={size}"))).row_length == length


def test_what_is_there_is_not_guessed(tmp_path: Path, shelf: Shelf) -> None:
    from stages.core.hardware import machine_of
    from stages.pipeline import Workspace

    given = sets("vae.channels=[8, 8]", *AUTO)
    with pytest.MonkeyPatch.context() as patch:
        lab = Lab(tmp_path, shelf, patch)
        for stage in ("encode", "tokenize"):
            assert lab.run(stage, *given).code == 0
        recipe = load_recipe("recipe.toml", given[1::2])
        tokens = Tokens.open(lab.folder / "work" / "tokens").content
        before = make_plan(Workspace(recipe, Path("work")), machine_of("L4", "fp32"))
        assert before.guessed == {"pack.row_length": 256}
        assert before.parameters["text in and out"] == 2 * recipe.model.width * tokens.vocab_size
        assert lab.run("pack", *given).code == 0
        after = make_plan(Workspace(recipe, Path("work")), machine_of("L4", "fp32"))
    assert (after.from_data, after.guessed) == (True, {})
    assert after.parameters == before.parameters
