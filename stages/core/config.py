"""The base of every recipe section: frozen, strict, and aware of which fields can change the result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Section(BaseModel):
    """A part of a recipe. Unknown keys are refused, values are never changed after validation.

    The string below a field is its description: `tfcli recipe explain`, docs/recipe.md and the JSON schema show it. It is read
    when it is asked for (stages/recipe_keys.py): pydantic's own reading takes 0.17 s of every start.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def neutral(default: Any, **options: Any) -> Any:
    """A field that cannot change the result (workers, device, intervals of the log): it stays out of the fingerprint."""
    return Field(default, json_schema_extra={"neutral": True}, **options)


def later(default: Any, **options: Any) -> Any:
    """A field that came after artifacts were made without it and changes the result only when set: at its default it stays out
    of the fingerprint, so that those artifacts stay what they are."""
    return Field(default, json_schema_extra={"later": True}, **options)


def result_config(section: BaseModel) -> dict[str, Any]:
    """The JSON of a section without neutral fields, and without later ones at their default: what goes into the fingerprint."""
    config: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("neutral"):
            continue
        if isinstance(extra, dict) and extra.get("later") and getattr(section, name) == info.default:
            continue
        config[name] = _plain(getattr(section, name))
    return config


def neutral_names(section: BaseModel, prefix: str = "") -> Iterator[str]:
    """The dotted names of the neutral fields of a section and of those inside it, after `prefix`."""
    for name, info in type(section).model_fields.items():
        extra, value = info.json_schema_extra, getattr(section, name)
        if isinstance(extra, dict) and extra.get("neutral"):
            yield f"{prefix}{name}"
        elif isinstance(value, BaseModel):
            yield from neutral_names(value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            for key, item in value.items():
                if isinstance(item, BaseModel):
                    yield from neutral_names(item, f"{prefix}{name}.{key}.")


def first_problem(error: ValidationError, *around: str) -> str:
    """The first thing that is wrong with values, on one line: where, and what. around: keys that the values are below."""
    first = error.errors()[0]
    return f"{'.'.join([*around, *(str(part) for part in first['loc'])])}: {first['msg']}"


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a field's type names, inside unions, lists and tables too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in sections_in(part)]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return result_config(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)
