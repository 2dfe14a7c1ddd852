"""recipe list, show, check, diff; --set; keys that do not exist."""

from __future__ import annotations

import tomllib
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
