"""The JSON schema of a recipe's file, for editors: draft 7, which the TOML tools read.

It accepts what a file may say, not a resolved recipe alone: with `extends` a section may leave out what it inherits, and
a section without `kind` is of its default kind. Whether a recipe is complete is for `tfcli recipe check` to say.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from stages.recipe import Recipe
from stages.recipe_keys import EXTENDS, EXTENDS_ABOUT, described, models_of

_DROPPED = ("title", "discriminator", "neutral", "later")  # no keyword of draft 7, or of no use to a reader


def recipe_schema() -> dict[str, Any]:
    """As plain JSON values."""
    schema: dict[str, Any] = _draft_7(Recipe.model_json_schema())
    _describe(schema, Recipe)
    for model in models_of(Recipe):
        _describe(schema["definitions"][model.__name__], model)
    for model in [schema, *(schema["definitions"][name] for name in _inheriting(schema))]:
        model.pop("required", None)
    schema["properties"] = {EXTENDS: {"type": "string", "description": EXTENDS_ABOUT}, **schema["properties"]}
    schema["anyOf"] = [{"required": ["source"]}, {"required": [EXTENDS]}]
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "A recipe of tfcli", **schema}


def _describe(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Add the descriptions of a section's keys."""
    for name, property in schema["properties"].items():
        property["description"] = described(model, name)


def _draft_7(value: Any, *, is_names: bool = False) -> Any:
    """The same in the words of draft 7. is_names: the keys of `value` are names of the recipe, not keywords."""
    if isinstance(value, list):
        return [_draft_7(item) for item in value]
    if isinstance(value, str):
        return value.replace("#/$defs/", "#/definitions/")
    if not isinstance(value, dict):
        return value
    if is_names:
        return {name: _draft_7(item) for name, item in value.items()}
    made: dict[str, Any] = {}
    for key, item in value.items():
        if key in _DROPPED or (key == "default" and item is None):
            continue
        if key in ("oneOf", "anyOf"):  # any: two kinds may have the same keys, and TOML has no null
            choices = [_draft_7(each) for each in item if each != {"type": "null"}]
            made |= choices[0] if len(choices) == 1 else {"anyOf": choices}
        elif key == "prefixItems":
            made["items"], made["additionalItems"] = _draft_7(item), False
        elif key == "description":
            made[key] = " ".join(item.split())
        elif key == "default":
            made[key] = item
        else:
            made["definitions" if key == "$defs" else key] = _draft_7(item, is_names=key in ("properties", "$defs"))
    if "$ref" in made and len(made) > 1:  # draft 7 ignores all other words of a reference
        made["allOf"] = [{"$ref": made.pop("$ref")}]
    return made


def _inheriting(schema: dict[str, Any]) -> set[str]:
    """The definitions of sections that a recipe may complete by `extends`: those that are reached without going into a list,
    which is replaced whole."""
    found: set[str] = set()
    waiting: list[Any] = [schema["properties"]]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            name = str(value.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                waiting.append(schema["definitions"][name])
            waiting += [item for key, item in value.items() if key != "items"]
    return found
