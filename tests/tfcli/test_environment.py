"""TFCLI_WORK and TFCLI_DEVICE: what they stand for, what goes before them, and how their mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer.main

from tfcli.app import app


def work_of(world: Any, *args: str) -> str:
    return str(world.json("run", "tiny", "--dry-run", "--json", *args)["work"])


def test_the_work_folder_is_typed_or_of_the_environment_or_named_by_the_recipe(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert work_of(world) == "work/tiny"
    monkeypatch.setenv("TFCLI_WORK", "")
    assert work_of(world) == "work/tiny"
    monkeypatch.setenv("TFCLI_WORK", "scratch/a b")
    assert work_of(world) == "scratch/a b"
    assert work_of(world, "--work", "typed") == "typed"
    assert world.call("vae", "-r", "tiny", "-q").stdout == "scratch/a b/autoencoder\n"
    assert (world.folder / "scratch" / "a b" / "autoencoder").is_dir()
    assert not (world.folder / "work").exists()


@pytest.mark.parametrize("command", [["run", "tiny"], ["vae", "-r", "tiny"], ["plan", "tiny"]])
def test_a_work_folder_that_cannot_be_is_named_by_its_variable(
    world: Any, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("TFCLI_WORK", "novel.txt")
    for typed, name in (([], "TFCLI_WORK"), (["--work", "novel.txt"], "--work")):
        result = world.call(*command, *typed)
        assert (result.exit_code, result.stderr.splitlines()[0]) == (2, f"error: {name} novel.txt: novel.txt is a file")


def device_of(world: Any, *args: str) -> str:
    seen: list[str] = []
    world.during["vae"] = lambda runtime: seen.append(runtime.device)
    assert world.call("vae", "-r", "tiny", "--force", *args).exit_code == 0
    return seen[0]


def test_the_device_is_typed_or_of_the_environment_or_chosen(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of(world) == "auto"
    monkeypatch.setenv("TFCLI_DEVICE", "cpu")
    assert device_of(world) == "cpu"
    assert device_of(world, "--device", "auto") == "auto"


@pytest.mark.parametrize("command", [["run", "tiny"], ["plan", "tiny"], ["inspect", "novel.txt"]])
def test_a_device_that_cannot_be_is_named_by_its_variable(
    world: Any, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    assert world.call("run", "tiny").exit_code == 0  # all is fresh: nothing would ask for a device
    monkeypatch.setenv("TFCLI_DEVICE", "toaster")
    result = world.call(*command)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: TFCLI_DEVICE=toaster: no such device",
        "fix: set TFCLI_DEVICE to auto, cpu, cuda or cuda:0, or unset it",
    ]
    typed = world.call(*command, "--device", "oven")
    assert (typed.exit_code, typed.stderr.splitlines()[0]) == (2, "error: --device oven: no such device")
    assert "TFCLI_DEVICE" not in world.call(*command, "--device", "cpu").stderr


def test_samples_of_a_checkpoint_go_next_to_it_whatever_the_environment_says(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.call("run", "tiny", "--until", "train").exit_code == 0
    monkeypatch.setenv("TFCLI_WORK", "elsewhere")
    for typed, folder in (([], "work/tiny"), (["--work", "typed"], "typed")):
        found = world.json("sample", "work/tiny/checkpoint", "a cat", "--json", *typed)
        assert Path(found["path"]).parent == Path(folder)
    assert not (world.folder / "elsewhere").exists()


@pytest.mark.parametrize("name", ["run", "train", "sample", "plan"])
def test_help_names_the_variables(world: Any, name: str) -> None:
    text = world.call(name, "--help").stdout
    assert "TFCLI_WORK" in text
    assert "TFCLI_DEVICE" in text


def test_every_option_of_that_name_has_its_variable() -> None:
    variables = {"--work": "TFCLI_WORK", "--device": "TFCLI_DEVICE"}
    seen = []
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        for parameter in command.params:
            for name in variables.keys() & set(parameter.opts):
                assert parameter.envvar == variables[name], command.name
                seen.append(name)
    assert len(seen) > 15
