"""recipe schema: the JSON schema accepts the recipes, refuses what is wrong, and agrees with the sections."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import TypeAdapter, ValidationError

from stages.recipe import Recipe
from stages.recipe_schema import recipe_schema
from tests.json_schema import is_valid
from tests.recipe_sections import section_models

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
SCHEMA = recipe_schema()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_schema_accepts_the_recipes(path: Path) -> None:
    assert is_valid(tomllib.loads(path.read_text()), SCHEMA, SCHEMA)


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ('extends = "shapes.toml"', True),
        ("[train]\nsteps = 3", False),  # neither a source nor a recipe to start from
        ('[source]\nkind = "shapes"', True),
        ('[source]\nkind = "shapes"\npath = "x"', False),
        ('extends = "shapes.toml"\n[source]\nsize = 32', True),  # the kind is inherited
        ('extends = "shapes.toml"\n[train]\nstepz = 3', False),
        ('extends = "shapes.toml"\n[train]\nsteps = 0', False),
        ('extends = "shapes.toml"\n[train]\nsteps = "many"', False),
        ('extends = "shapes.toml"\n[train]\ncompile = "yes"', False),
        ('extends = "shapes.toml"\n[train]\ncompile = true', True),
        ('extends = "shapes.toml"\n[train]\ntrackers = [{ kind = "tensorboard" }]', True),
        ('extends = "shapes.toml"\n[train]\ntrackers = [{ kind = "other" }]', False),
        ('extends = "shapes.toml"\n[vae]\nkind = "none"', False),
        ('extends = "shapes.toml"\n[vae]\npath = "a"', True),
        ('extends = "shapes.toml"\n[sample.generation]\nsampler = { steps = 4 }', True),
        ('extends = "shapes.toml"\n[sample.generation]\nguidance_interval = [0.1]', False),
        ('extends = "shapes.toml"\n[sample.generation]\nguidance_interval = [0.1, 0.9]', True),
        ('extends = "shapes.toml"\n[sample.generation]\nguidance_interval = [0.1, "b"]', False),
        ('extends = "shapes.toml"\n[sample.generation]\nguidance_interval = [0.1, 0.9, 1]', False),
        ('extends = "shapes.toml"\n[sample]\nprompts = ["a", { parts = [{ text = "b" }, { image = "c" }] }]', True),
        ('extends = "shapes.toml"\n[sample]\nprompts = [{ parts = [{ txt = "b" }] }]', False),
        ('extends = "shapes.toml"\n[sample]\nprompts = [{ draw = true }]', False),  # a list is not inherited in parts
        ('extends = "shapes.toml"\n[pack]\nweights = { photos = -1 }', False),
        ('extends = "shapes.toml"\n[[tokenize.text]]\npath = "x"', True),
    ],
)  # fmt: skip
def test_what_the_schema_accepts(text: str, accepted: bool) -> None:
    assert is_valid(tomllib.loads(text), SCHEMA, SCHEMA) == accepted


def _values(annotation: Any) -> list[Any]:
    """Values to try for a plain field: around every bound that a section has, or all choices and one more."""
    numbers = [-1, 0, 1, 2, 7, 8, 9, 16, 99, 100, 512, 1000, 1001, 2049, 4097, 2**63]
    if annotation is int:
        return numbers
    if annotation is float:
        return [*numbers, 1e-9, 0.5, 0.999, 1.5]
    if get_origin(annotation) is Literal:
        return [*get_args(annotation), "neither"]
    return [True, False] if annotation is bool else []


def test_the_schema_and_the_sections_accept_the_same() -> None:
    tried = refused = 0
    for model in section_models():
        properties = SCHEMA["properties" if model is Recipe else "definitions"]
        for name, info in model.model_fields.items():
            part = properties[name] if model is Recipe else properties[model.__name__]["properties"][name]
            adapter: TypeAdapter[Any] = TypeAdapter(Annotated[info.annotation, info])
            for value in _values(info.annotation):
                tried += 1
                refused += not _accepts(adapter, value)
                assert is_valid(value, part, SCHEMA) == _accepts(adapter, value), (model, name, value)
    assert tried > 1000
    assert refused > 300


def _accepts(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


def test_the_schema_is_printed_or_written(world: Any) -> None:
    printed = json.loads(world.call("recipe", "schema").stdout)
    assert printed["properties"]["seed"]["description"].startswith("Seed of")
    result = world.call("recipe", "schema", "--output", "recipe.schema.json")
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads(Path("recipe.schema.json").read_text()) == printed


def test_a_schema_that_cannot_be_written(world: Any) -> None:
    result = world.call("recipe", "schema", "--output", str(world.folder / "none" / "a.json"))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


DRAFT = '"$schema": "http://json-schema.org/draft-07/schema#"'


@pytest.mark.parametrize(
    "text",
    [
        "seed = 1\n",
        '{"$schema": "https://example.org/settings.json", "mine": 1}',
        f'{{{DRAFT}, "title": "Mine"}}',
        '["$schema"]',
        '"$schema"',
        "[" * 100_000,
    ],
    ids=["toml", "settings", "another schema", "list", "text", "deep"],
)
def test_a_file_that_is_no_schema_of_recipes_is_never_replaced(world: Any, text: str) -> None:
    kept = world.folder / "mine.json"
    kept.write_text(text)
    result = world.call("recipe", "schema", "--output", str(kept))
    assert result.exit_code == 2
    assert "is no schema of recipes" in " ".join(result.stderr.split())
    assert kept.read_text() == text


def test_its_own_file_is_replaced(world: Any) -> None:
    for _ in range(2):
        assert world.call("recipe", "schema", "--output", str(world.folder / "own.json")).exit_code == 0
