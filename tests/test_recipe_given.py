"""How recipes are given: in any order of --set, through pipes, with a byte order mark, under any file name."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.recipe import load_recipe, name_from

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "overrides",
    [
        ("source.path=x", "source.kind=webdataset", "source.json_key=title"),
        ("train.steps=7", "vae.path=a/vae", "vae.kind=pretrained"),
        ("sample.generation.sampler.steps=9", "sample.generation.sampler.kind=ddpm", "seed=4"),
        ('source={kind="text",path="a"}', "source.kind=webdataset", "source.path=q"),
    ],
)
def test_the_order_of_settings_does_not_matter(overrides: tuple[str, ...]) -> None:
    found = [
        load_recipe("folder", order)
        for order in itertools.permutations(overrides)
        if order[0] == overrides[0] or "{" not in overrides[0]
    ]
    assert len(found) > 1
    assert all(recipe == found[0] for recipe in found)
    assert found[0] != load_recipe("folder")


def test_of_two_settings_of_one_key_the_later_counts() -> None:
    assert load_recipe("folder", ("train.steps=7", "train.steps=8")).train.steps == 8
    recipe = load_recipe("folder", ("source.kind=shapes", "source.kind=webdataset", "source.path=x"))
    assert recipe.source.kind == "webdataset"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("source.path=x", "source.kind=shapes"), "source.path is no key of the kind shapes: folder, jsonl"),
        (("source.size=3",), "source.size is no key of the kind folder: emoji, shapes"),
        (("source.json_key=x",), "source.json_key is no key of the kind folder: only webdataset has it"),
    ],
)
def test_a_key_of_another_kind_is_named_as_such(overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(TfcliError) as caught:
        load_recipe("folder", overrides)
    assert says in caught.value.what
    assert "did you mean" not in caught.value.fix
    assert "source.kind" in caught.value.fix
    assert caught.value.code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("file", "name"),
    [("my recipe", "my-recipe"), ("B\u00fccher", "Bucher"), ("\u56fe", "recipe"), ("a.b_c-d", "a.b_c-d"), ("-x-", "x")],
)
def test_a_recipe_without_a_name_gets_that_of_its_file(tmp_path: Path, file: str, name: str) -> None:
    path = tmp_path / f"{file}.toml"
    path.write_bytes(b"\xef\xbb\xbf" + (ROOT / "recipes" / "folder.toml").read_bytes())
    assert load_recipe(str(path)).name == name
    assert name_from(Path("x" * 200)) == "x" * 80


def test_a_recipe_comes_through_a_pipe_and_may_extend_one_by_name() -> None:
    command = [sys.executable, "-m", "tfcli", "recipe", "check", "-"]
    smoke = (ROOT / "recipes" / "smoke.toml").read_bytes()
    done = subprocess.run(command, input=smoke, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    reader, writer = os.pipe()
    os.write(writer, smoke)
    os.close(writer)
    done = subprocess.run([*command[:-1], f"/dev/fd/{reader}"], pass_fds=[reader], capture_output=True, cwd=ROOT)
    os.close(reader)
    assert done.returncode == 0, done.stderr


def test_a_folder_is_no_recipe_and_the_template_for_folders_is_named(tmp_path: Path) -> None:
    with pytest.raises(TfcliError, match="no recipe") as caught:
        load_recipe(str(tmp_path))
    assert caught.value.why == "it is a folder"
    assert caught.value.fix.endswith(f"for a folder of pictures: tfcli run folder --set source.path={tmp_path}")


def test_a_device_is_no_recipe() -> None:
    with pytest.raises(TfcliError, match="no recipe"):
        load_recipe("/dev/zero")
