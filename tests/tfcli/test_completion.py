"""Completion by the shell: the function that it is given, and recipe names wherever a recipe is asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from tfcli.app import app

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """An environment with its own home, and `tfcli` on the path."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "tfcli"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m tfcli "$@"\n')
    command.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}


def call(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, cwd=env["HOME"], capture_output=True, text=True, timeout=60, check=False)


def test_bash_completes_recipe_names(shell: dict[str, str]) -> None:
    script = """
        eval "$(tfcli --show-completion)"
        COMP_WORDS=(tfcli run sm) COMP_CWORD=2
        _tfcli_completion tfcli
        echo "${COMPREPLY[*]}"
        complete -p tfcli
    """
    done = call(["bash", "--norc", "-c", script], shell)
    assert done.stdout.splitlines() == ["smoke", "complete -o default -F _tfcli_completion tfcli"], done.stderr


def test_it_is_installed_for_the_shell_that_asks(shell: dict[str, str]) -> None:
    done = call(["bash", "--norc", "-c", "tfcli --install-completion; echo $?"], shell)
    assert done.stdout.splitlines()[-1] == "0", done.stderr
    home = Path(shell["HOME"])
    assert str(home / ".bash_completions" / "tfcli.sh") in (home / ".bashrc").read_text()
    sourced = call(["bash", "--norc", "-c", ". ~/.bashrc; complete -p tfcli"], shell)
    assert sourced.stdout.startswith("complete -o default"), sourced.stderr


@pytest.mark.parametrize("option", ["--install-completion", "--show-completion"])
def test_a_shell_without_completion_is_named(shell: dict[str, str], option: str) -> None:
    done = call(["sh", "-c", f"tfcli {option}; echo $?"], shell)
    if "completion installed" in done.stdout or "_tfcli_completion" in done.stdout:
        pytest.skip("sh is one that has it")
    assert done.stdout.splitlines()[-1] == "2"
    assert "error: completion for this shell is not known" in done.stderr
    assert "fix: run it from bash, zsh, fish or PowerShell" in done.stderr


def test_the_exit_code_is_what_fish_asks_for(shell: dict[str, str]) -> None:
    """0: names are to be offered; 1: files."""
    asked = {**shell, "_TFCLI_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "is-args"}
    codes = []
    for words in ("tfcli run sm", "tfcli run qq"):
        done = call(["tfcli"], {**asked, "_TYPER_COMPLETE_ARGS": words})
        codes.append(done.returncode)
        assert "Traceback" not in done.stderr
    assert codes == [0, 1]


def commands(group: Any, path: str = "tfcli") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_recipes_are_offered_wherever_one_is_asked_for() -> None:
    asked = set()
    for name, command in commands(typer.main.get_command(app)):
        context = command.make_context(name, [], resilient_parsing=True)
        for parameter in command.params:
            if re.search("RECIPE|SOURCE|OTHER", str(parameter.metavar)):
                offered = [item.value for item in parameter.shell_complete(context, "smo")]
                assert offered == ["smoke"], f"{name}: {parameter.name}"
                asked.add(f"{name} {parameter.name}")
    assert {
        f"tfcli {name} recipe" for name in ("run", "train", "sample", "plan", "recipe show", "recipe check")
    } <= asked
    assert {"tfcli recipe diff first", "tfcli recipe diff second", "tfcli doctor source"} <= asked
