"""'tfcli plan' and 'tfcli train --dry-run': figures before anything is made."""

from __future__ import annotations

from typing import Any

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
