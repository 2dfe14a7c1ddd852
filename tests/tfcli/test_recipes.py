"""recipe list, show, check, diff; --set; keys that do not exist."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.errors import ExitCode, TfcliError
from tfcli.toml import to_toml

_text = st.text(st.characters(exclude_categories=["Cs"]))
_value = st.recursive(
    st.one_of(_text, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)),
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(_text, below, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(_text, _value, max_size=4))
def test_toml_comes_back(tree: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(tree)) == tree


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("images.size=50", "images.size = 50 must be a multiple of 16"),
        (
            "pack.patch_side=3",
            "a multiple of 12 (vae.channels shrink pictures 4 times, pack.patch_side = 3), such as 60, 72",
        ),
        ("vae.norm_groups=7", "norm_groups = 7 must divide each of channels, 32 too"),
    ],
)
def test_what_the_recipe_alone_decides_is_said_at_once(setting: str, said: str) -> None:
    from stages.recipe import load_recipe

    with pytest.raises(TfcliError) as caught:
        load_recipe(
            "folder",
            ("vae.channels=[32, 64, 128]", "vae.norm_groups=8", "images.size=64", "pack.patch_side=4", setting),
        )
    assert said in f"{caught.value.what} {caught.value.why}"
    assert caught.value.code == ExitCode.USAGE


def test_show_can_be_loaded_again(world: Any) -> None:
    from stages.recipe import load_recipe

    settings = (
        "sample.prompts=['a \"b\" \\\\ [c]', '\u00e9']",
        'tokenize.text=[{kind="text", path="x.txt"}]',
        "seed=3",
    )
    shown = world.call("recipe", "show", "tiny", *[part for text in settings for part in ("--set", text)])
    assert shown.exit_code == 0, shown.stderr
    (world.folder / "again.toml").write_text(shown.stdout)
    assert load_recipe("again.toml") == load_recipe("tiny", settings)
    assert load_recipe("again.toml") != load_recipe("tiny")


def test_list_and_check(world: Any) -> None:
    (world.folder / "recipes" / "bad.toml").write_text("[source]\nkind='text'\npath='x'\n[train]\nstep = 4\n")
    listed = world.call("recipe", "list").stdout
    assert "a [bold]tiny[/bold] one" in listed
    assert "unknown key train.step" in listed
    result = world.call("recipe", "check", "recipes")
    assert result.exit_code == 2
    assert "ok" in result.stdout
    assert "did you mean train.steps?" in " ".join(result.stdout.split())
    assert "1 of 2 recipes" in result.stderr
    assert world.call("recipe", "check", "tiny").exit_code == 0
    assert "fix: did you mean train.steps?" in world.call("recipe", "check", "bad").stderr


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("train.stepz=4", "did you mean train.steps?"),
        ("guidance=3", "did you mean sample.generation.guidance or eval.generation.guidance?"),
        ("nothing_like_it=3", "'tfcli recipe show shapes' lists all keys"),
        ("sample.generation.sampler.kind=ddmi", "did you mean ddpm or ddim?"),
        ("train.steps=0", "train.steps"),
        ("train.steps=many", "train.steps"),
        ("model.time_features=7", "multiple of 2"),
        ("pack.row_length=8", "--set pack.row_length=8: Input should be greater than or equal to 16 or 'auto'"),
        ("tokenize.tokenizer={vocab_size=3}", "tokenizer.vocab_size: Input should be greater than or equal to 16 or"),
        ("model.rope_base=0", "greater than 0 or 'auto'"),
        ("train={processes=0}", "processes: Input should be greater than or equal to 1 or 'auto'"),
        ("train.compile=automatic", "Input should be a valid boolean, unable to interpret input or 'auto'"),
        ("seed=-1", "seed"),
        ("seed=1180591620717411303424", "seed"),
        ("seed=" + "9" * 5000, "seed"),
        ("steps", "key=value"),
        ("train.steps.x=1", "is a value, not a section"),
        ("vae.kind=nothing", "vae"),
        ('tokenize.text=[{kind="text", pathh="x"}]', "tokenize.text.0"),
        ("[red]=\x1b[31m", "unknown key [red]"),
    ],
)
def test_settings_that_cannot_be(world: Any, setting: str, expected: str) -> None:
    result = world.call("recipe", "show", "tiny", "--set", setting)
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert expected in result.stderr
    assert "\x1b" not in result.stderr
    assert "constrained" not in result.stderr, "a name of pydantic's"


def test_settings_that_can_be(world: Any) -> None:
    forms = ["description=bare words = here", "train.learning_rate=1e-3", "name=x\n[evil]", "vae.channels=[8, 16]"]
    kinds = ["--set", "vae.kind=pretrained", "--set", "vae.path=x"]
    tree = world.json("recipe", "show", "tiny", "--json", *[part for text in forms[:2] for part in ("--set", text)])
    assert (tree["description"], tree["train"]["learning_rate"]) == ("bare words = here", 0.001)
    assert world.call("recipe", "show", "tiny", "--set", forms[2]).exit_code == 2
    assert world.json("recipe", "show", "tiny", "--json", "--set", forms[3])["vae"]["channels"] == [8, 16]
    assert world.json("recipe", "show", "tiny", "--json", *kinds)["vae"]["path"] == "x"


@pytest.mark.parametrize("name", ["tinny", "x" * 5000, "~nobody/x", "recipes", "bad\x00"])
def test_no_such_recipe(world: Any, name: str) -> None:
    result = world.call("recipe", "show", name)
    assert result.exit_code == 2
    assert "error: no recipe" in result.stderr
    assert name != "tinny" or "did you mean tiny?" in result.stderr


@pytest.mark.parametrize("text", ["[train\n", "a = 1\na = 2\n", "a = " + "[" * 3000, "\udcff", "x = " + "1" * 5000])
def test_files_that_are_no_recipe(world: Any, text: str) -> None:
    (world.folder / "odd.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    result = world.call("recipe", "show", "odd.toml")
    assert result.exit_code == 2
    assert "error: odd.toml:" in result.stderr


def test_diff(world: Any) -> None:
    result = world.json("recipe", "diff", "tiny", "tiny", "--set", "train.steps=9", "--json")
    assert result == {"differences": {"train.steps": [7, 9]}}
    assert "train.steps" in world.call("recipe", "diff", "tiny", "tiny", "--set", "train.steps=9").stdout
    assert world.call("recipe", "diff", "tiny", "tiny").stdout == "no difference\n"


@pytest.mark.parametrize("command", ["list", "check"])
def test_no_recipe_at_all_is_an_error_of_the_installation(
    world: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (world.folder / "empty").mkdir()
    monkeypatch.setattr("stages.recipe.recipe_folders", lambda: [world.folder / "empty"])
    result = world.call("recipe", command)
    assert result.exit_code == 5
    assert result.stdout == ""
    assert "error: no recipe was found" in result.stderr
    assert f"why: looked in: {world.folder / 'empty'}" in result.stderr
    assert "fix: install tfcli again" in result.stderr


def test_a_copy_has_the_comments(world: Any) -> None:
    origin = world.folder / "recipes" / "tiny.toml"
    origin.write_text("# why it is so\n" + origin.read_text())
    (world.folder / "below").mkdir()
    for to, expected in (([], "tiny.toml"), (["below"], "below/tiny.toml"), (["mine.toml"], "mine.toml")):
        result = world.call("recipe", "copy", "tiny", *to)
        assert (result.exit_code, result.stdout) == (0, f"{expected}\n"), result.stderr
        assert (world.folder / expected).read_bytes() == origin.read_bytes()
    assert world.json("recipe", "copy", "tiny", "again.toml", "--json") == {
        "from": "recipes/tiny.toml",
        "path": "again.toml",
    }
    # the name of a run is that of its file: a copy has a work folder of its own
    assert world.json("recipe", "show", "mine.toml", "--json")["name"] == "mine"


def test_a_copy_of_an_extension_resolves_to_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from stages.recipe import load_recipe
    from tfcli.app import app

    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["recipe", "copy", "smoke"])
    assert result.exit_code == 0, result.stderr
    assert "it extends shapes.toml" in result.stderr
    assert load_recipe("smoke.toml") == load_recipe("smoke")


@pytest.mark.parametrize(
    ("args", "what", "fix"),
    [
        (["tinny"], "no recipe tinny", "did you mean tiny?"),
        (["tiny", "novel.txt"], "novel.txt exists already", "give another name: tfcli recipe copy tiny OTHER.toml"),
        (["tiny", "dangling"], "dangling exists already", "give another name"),
        (["tiny", "nowhere/"], "nowhere: no such folder", "make it first"),
        (["tiny", "nowhere/x.toml"], "nowhere: no such folder", "make it first"),
        (["tiny", "novel.txt/x.toml"], "novel.txt: no such folder", "make it first"),
        (["tiny", "recipes"], "recipes/tiny.toml exists already", "give another name"),
        (["tiny", "work/tiny/latents"], "inside an artifact", "write it elsewhere"),
        (["recipes"], "no recipe recipes", "see 'tfcli recipe list'"),
        (["novel.txt", "new.toml"], "not TOML", "correct the file at that line"),
    ],
)
def test_a_copy_replaces_nothing(world: Any, args: list[str], what: str, fix: str) -> None:
    if "latents" in args[-1]:
        assert world.call("run", "tiny", "--until", "encode").exit_code == 0
    (world.folder / "dangling").symlink_to("elsewhere")
    before = {path: path.is_file() and path.read_bytes() for path in world.folder.rglob("*")}
    result = world.call("recipe", "copy", *args)
    assert result.exit_code == 2, result.stderr
    assert what in result.stderr.splitlines()[0]
    assert fix in result.stderr
    assert {path: path.is_file() and path.read_bytes() for path in world.folder.rglob("*")} == before


def test_a_copy_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    script = f"ulimit -f 0; exec {sys.executable} -m tfcli recipe copy smoke mine.toml"  # every write of a file fails
    env = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert "error: cannot write mine.toml" in done.stderr
    assert list(tmp_path.iterdir()) == []
