"""Checks values against the words of JSON Schema (draft 7) that a recipe's schema uses; any other word is an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
_ABOUT = ("$schema", "title", "description", "default", "definitions", "format")  # nothing to check
_BOUNDS = {
    "multipleOf": lambda value, bound: value % bound == 0,
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
}
_LENGTHS = {"minItems": 1, "maxItems": -1, "minLength": 1, "maxLength": -1, "minProperties": 1}


def is_valid(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """Whether `schema`, a part of `root`, accepts the value."""
    return all(_obeys(value, word, schema, root) for word in schema)


def _obeys(value: Any, word: str, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    wanted = schema[word]
    if word in _ABOUT:
        return True
    if word == "$ref":
        return is_valid(value, root["definitions"][wanted.removeprefix("#/definitions/")], root)
    if word == "type":
        if wanted == "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        return isinstance(value, _TYPES[wanted]) and (wanted != "integer" or not isinstance(value, bool))
    if word in ("const", "enum"):
        return value in ([wanted] if word == "const" else wanted)
    if word in ("anyOf", "allOf"):
        found = [is_valid(value, each, root) for each in wanted]
        return any(found) if word == "anyOf" else all(found)
    if word in _BOUNDS:
        return isinstance(value, str | list | dict) or _BOUNDS[word](value, wanted)
    if word in _LENGTHS:
        return not isinstance(value, str | list | dict) or (len(value) - wanted) * _LENGTHS[word] >= 0
    if word == "pattern":
        return not isinstance(value, str) or re.search(wanted, value) is not None
    if word in ("required", "properties", "additionalProperties", "propertyNames", "patternProperties"):
        return not isinstance(value, dict) or all(_of_table(value, word, schema, root))
    if word in ("items", "additionalItems"):
        return not isinstance(value, list) or all(_of_list(value, word, schema, root))
    raise AssertionError(f"the schema has a word that this does not know: {word}")


def _of_table(value: dict[str, Any], word: str, schema: dict[str, Any], root: dict[str, Any]) -> Iterator[bool]:
    wanted = schema[word]
    known = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    if word == "required":
        yield from (name in value for name in wanted)
    elif word == "properties":
        yield from (is_valid(item, known[name], root) for name, item in value.items() if name in known)
    elif word == "propertyNames":
        yield from (is_valid(name, wanted, root) for name in value)
    elif word == "patternProperties":
        yield from (
            is_valid(item, each, root)
            for name, item in value.items()
            for at, each in wanted.items()
            if re.search(at, name)
        )
    else:
        others = [
            item
            for name, item in value.items()
            if name not in known and not any(re.search(at, name) for at in patterns)
        ]
        yield from (wanted if isinstance(wanted, bool) else is_valid(item, wanted, root) for item in others)


def _of_list(value: list[Any], word: str, schema: dict[str, Any], root: dict[str, Any]) -> Iterator[bool]:
    wanted = schema[word]
    if word == "items" and isinstance(wanted, dict):
        yield from (is_valid(item, wanted, root) for item in value)
    elif word == "items":
        yield from (is_valid(item, each, root) for item, each in zip(value, wanted, strict=False))
    else:
        yield wanted is not False or len(value) <= len(schema["items"])
