"""Where each value of a resolved recipe comes from: the recipe's file, the one that it extends, --set, or a default."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from stages.recipe import (
    Recipe,
    apply_overrides,
    find_recipe,
    make_recipe,
    merge_layers,
    name_from,
    read_layers,
)
from stages.recipe_errors import override_key
from stages.recipe_keys import described

DEFAULT, SET = "default", "--set"


def load_with_origins(name: str, overrides: tuple[str, ...] = ()) -> tuple[Recipe, dict[str, str]]:
    """A recipe, and by the dotted name of each of its keys where the value is from: a path, "--set" or "default". The files are
    read once, as one may be a pipe. Raises TfcliError (USAGE) as `load_recipe`."""
    path = find_recipe(name)
    layers = read_layers(path)
    given = merge_layers(copy.deepcopy(layers))
    given.setdefault("name", name_from(path))
    recipe = make_recipe(copy.deepcopy(given), overrides, path)
    apply_overrides(given, overrides)
    origins = {}
    for key, _, _ in recipe_values(recipe):
        if not _holds(given, key):
            origins[key] = DEFAULT
        elif any(key == one or key.startswith(f"{one}.") for one in map(override_key, overrides)):
            origins[key] = SET
        else:
            files = (str(file) for file, tree in reversed(layers) if _holds(tree, key))
            origins[key] = next(files, f"the name of {path}")  # the name of the recipe, where no file has one
    return recipe, origins


def recipe_values(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted name, plain value, description) of each key that holds no section, in the order of the recipe."""
    values = section.model_dump(mode="json")
    for field in type(section).model_fields:
        value, name = getattr(section, field), f"{prefix}{field}"
        if isinstance(value, BaseModel):
            yield from recipe_values(value, f"{name}.")
        elif isinstance(value, dict) and any(isinstance(item, BaseModel) for item in value.values()):
            for entry, item in value.items():
                yield from recipe_values(item, f"{name}.{entry}.")
        else:
            yield name, values[field], described(type(section), field)


def _holds(tree: dict[str, Any], key: str) -> bool:
    """Whether a tree has that key, or a whole value of which it is a part."""
    value: Any = tree
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True
