"""recipe explain, show --explain: what a key does and where its value comes from."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from stages.recipe_keys import all_names

ROOT = Path(__file__).parents[2]


def test_explain_a_key(world: Any) -> None:
    lines = world.call("recipe", "explain", "train.ema_decay").stdout.splitlines()
    assert lines[0] == "train.ema_decay: number, at least 0 and below 1; default 0.999"
    assert lines[1].startswith("    Decay of the running average")
    assert all(len(line) <= 100 for line in lines)


def test_explain_a_section_with_all_its_keys(world: Any) -> None:
    text = world.call("recipe", "explain", "diffusion").stdout
    names = [name for name in all_names() if name.startswith("diffusion.") and not name.endswith(".kind")]
    assert len(names) > 10
    for name in names:
        assert f"\n{name}: " in text, name
    assert '[diffusion.target] kind = "flow"' in text
    assert "train.steps" not in text


def test_explain_a_key_of_several_kinds(world: Any) -> None:
    text = world.call("recipe", "explain", "source.path").stdout
    assert 'source.path (with kind = "folder"): text; required' in text
    assert "a pattern such as shards/{000..009}.tar" in text
    alike = world.call("recipe", "explain", "source.recursive").stdout
    assert alike.splitlines()[0] == ('source.recursive (with kind = "folder" or "text"): true or false; default true')
    kinds = world.call("recipe", "explain", "vae.kind").stdout
    assert 'vae.kind = "pretrained"\n    Take a finished autoencoder.' in kinds


def test_explain_alone_lists_the_sections(world: Any) -> None:
    text = world.call("recipe", "explain").stdout
    sections = [line for line in text.splitlines() if line.startswith("[")]
    assert sections[:3] == ["[source]", "[source.of]", "[images]"]
    assert {"[train]", "[sample.generation.sampler]", "[eval]"} <= set(sections)
    assert "extends: text; not set" in text


def test_explain_as_json(world: Any) -> None:
    (key,) = world.json("recipe", "explain", "train.steps", "--json")["keys"]
    assert (key["name"], key["default"], key["type"]) == ("train.steps", 1000, "whole number, at least 1")
    assert len(world.json("recipe", "explain", "--json")["sections"]) > 30


@pytest.mark.parametrize(
    ("key", "fix"),
    [
        ("train.ema_decai", "did you mean train.ema_decay"),
        ("stepz", "did you mean "),
        ("ema_decay", "did you mean vae.ema_decay or train.ema_decay?"),
        ("qqqqqqq", "'tfcli recipe explain' lists the sections"),
        ("train.\x1b[31m", ""),
    ],
)
def test_what_is_no_key(world: Any, key: str, fix: str) -> None:
    result = world.call("recipe", "explain", key)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: no recipe key ")
    assert fix in result.stderr
    assert "\x1b" not in result.stderr


PARENT = """description = "the one below"
seed = 4
[source]
kind = "text"
path = "novel.txt"
[vae]
kind = "train"
steps = 20
[train]
steps = 7
batch_rows = 2
"""
CHILD = """extends = "tiny"
[train]
steps = 8
[sample.generation]
sampler = { kind = "ddpm", steps = 9 }
"""


@pytest.fixture
def child(world: Any) -> Any:
    (world.folder / "recipes" / "tiny.toml").write_text(PARENT)
    (world.folder / "recipes" / "child.toml").write_text(CHILD)
    return world


def origins(world: Any, *settings: str) -> dict[str, str]:
    options = [part for setting in settings for part in ("--set", setting)]
    shown = world.json("recipe", "show", "child", "--explain", "--json", *options)
    return {key: entry["from"] for key, entry in shown.items()}


def test_where_each_value_is_from(child: Any) -> None:
    found = origins(child, "train.batch_rows=3", "eval.generation.guidance=2")
    below, own = str(Path("recipes/tiny.toml")), str(Path("recipes/child.toml"))
    assert {
        "name": f"the name of {own}",
        "seed": below,
        "source.path": below,
        "source.split": "default",
        "train.steps": own,
        "train.batch_rows": "--set",
        "train.micro_rows": "default",
        "vae.steps": below,
        "sample.generation.sampler.steps": own,
        "sample.generation.guidance": "default",
        "eval.generation.guidance": "--set",
    }.items() <= found.items()


def test_where_values_are_from_when_a_kind_changes(child: Any) -> None:
    found = origins(child, "vae.path=x", "vae.kind=pretrained", "name=y", "sample.generation.sampler.kind=ddim")
    assert (found["vae.kind"], found["vae.path"], found["name"]) == ("--set", "--set", "--set")
    assert origins(child, "name=child")["name"] == "--set"
    assert "vae.steps" not in found  # a key of the kind that was replaced
    assert found["sample.generation.sampler.steps"] == "default"
    (child.folder / "recipes" / "child.toml").write_text(
        CHILD + '[source]\nkind = "shapes"\n[vae]\nkind = "pretrained"\npath = "z"\n'
    )
    found = origins(child)
    assert found["source.size"] == "default"
    assert found["vae.path"] == found["source.kind"] == str(Path("recipes/child.toml"))


def test_a_whole_section_of_set_is_from_there(child: Any) -> None:
    found = origins(child, 'source={kind="text",path="a"}')
    assert (found["source.kind"], found["source.path"], found["source.split"]) == ("--set", "--set", "default")


@pytest.mark.parametrize("name", ["smoke", "folder", "paper-7b-unet"])
def test_an_explained_recipe_is_the_same_recipe(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from stages.recipe import load_recipe
    from tfcli.app import app

    monkeypatch.chdir(ROOT)
    settings = (
        'source={kind="mix",of={a={kind="text",path="x"},b={kind="shapes",size=32}}}',
        "sample.prompts=['a \"b\" \\\\ [c]', {parts=[{text='d'}],draw=true}]",
        "description=#no comment\u00e9",
    )
    options = [part for text in settings for part in ("--set", text)]
    shown = CliRunner().invoke(app, ["recipe", "show", name, "--explain", *options])
    assert shown.exit_code == 0, shown.stderr
    path = tmp_path / "again.toml"
    path.write_text(shown.stdout)
    assert load_recipe(str(path)) == load_recipe(name, settings)
    assert "\n# Decay of the running average" in shown.stdout
    assert shown.stdout.count("  # default\n") > 50
    assert shown.stdout.index("\n[tokenize]\n") < shown.stdout.index("\n[tokenize.tokenizer]\n")


def test_an_odd_file_name_stays_in_its_comment(world: Any) -> None:
    odd = world.folder / "a\nseed = 9\n#.toml"
    odd.write_text((world.folder / "recipes" / "tiny.toml").read_text())
    shown = world.call("recipe", "show", str(odd), "--explain")
    assert shown.exit_code == 0, shown.stderr
    assert tomllib.loads(shown.stdout)["seed"] == 0


def test_a_recipe_from_a_pipe_is_read_once() -> None:
    command = [sys.executable, "-m", "tfcli", "recipe", "show", "-", "--explain"]
    given = (ROOT / "recipes" / "smoke.toml").read_bytes()
    done = subprocess.run(command, input=given, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert b"steps = 40  # /dev/stdin" in done.stdout
