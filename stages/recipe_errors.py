"""What is wrong with the values of a recipe, as an error that names the key as a user wrote it."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from types import UnionType
from typing import Union, get_origin

from pydantic import BaseModel, ValidationError

from stages.core.config import sections_in
from stages.core.errors import ExitCode, TfcliError


def override_key(override: str) -> str:
    """The dotted key that a `--set KEY=VALUE` sets."""
    return override.partition("=")[0].strip()


def explained(recipe: type[BaseModel], path: Path, error: ValidationError, overrides: tuple[str, ...]) -> TfcliError:
    """An error that names the file and the key, or the override that the value came from. recipe: the sections of a recipe."""
    problem = error.errors()[0]
    # Discriminated unions put the kind into the location: it is no key of the file.
    location = [str(part) for part in problem["loc"]]
    keys, model = _resolve(recipe, location)
    name = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        others = _kinds_with(recipe, keys)
        if others and (kind := _kind_in(location)):
            kinds = ", ".join(others)
            what = f"{name} is no key of the kind {kind}: only {kinds} has it" if len(others) == 1 else ""
            what = what or f"{name} is no key of the kind {kind}: {kinds} have it"
            fix = f"set {'.'.join(keys[:-1])}.kind, or leave {keys[-1]} out"
            given = next((one for one in overrides if override_key(one) == name), None)
            return TfcliError(f"--set {what}", fix=fix, code=ExitCode.USAGE) if given else unusable(path, what, fix)
        close = difflib.get_close_matches(keys[-1], list(model.model_fields) if model else [], n=1)
        near = (
            [".".join([*keys[:-1], close[0]])]
            if close
            else [key for key in all_keys(recipe) if key.endswith(f".{keys[-1]}")]
        )
        fix = f"did you mean {' or '.join(near[:3])}?" if near else "'tfcli recipe show shapes' lists all keys"
        return unusable(path, f"unknown key {name}", fix)
    message, fix = _message(error, of_types=bool(keys) and keys[-1] != location[-1]), "give another value"
    if problem["type"] == "union_tag_invalid":
        known = re.findall(r"'([^']+)'", problem["ctx"]["expected_tags"])
        message = f"no such kind; one of {', '.join(known)}"
        close = difflib.get_close_matches(problem["ctx"]["tag"], known, n=2)
        fix = f"did you mean {' or '.join(close)}?" if close else fix
    for override in reversed(overrides):
        key, _, value = override.partition("=")
        key = key.strip()
        if f"{name}.".startswith(f"{key}.") or key == f"{name}.kind":
            below = f"{name}: " if len(name) > len(key) else ""
            what = f"--set {key}={value[:80]}: {below}{message}"
            return TfcliError(what, fix=fix, code=ExitCode.USAGE)
    given = problem.get("input")
    shown = "" if isinstance(given, dict) else f" (got {json.dumps(given, default=str)[:80]})"
    return unusable(path, f"{name and name + ': '}{message}{shown}", "change the key in the file or with --set")


def _message(error: ValidationError, *, of_types: bool) -> str:
    """What is wrong with the first value that is refused. of_types: it may have one of several types, and each of them refuses
    it: `Input should be greater than or equal to 1 or 'auto'`."""
    first, *others = error.errors()
    message = first["msg"].removeprefix("Value error, ")
    if not of_types:
        return message
    alike = [other["msg"] for other in others if other["loc"][:-1] == first["loc"][:-1]]
    return " or ".join([message, *(other.removeprefix("Input should be ") for other in alike)])


def _resolve(recipe: type[BaseModel], location: list[str]) -> tuple[list[str], type[BaseModel] | None]:
    """The dotted keys of an error's location, and the model that owns the last one."""
    keys: list[str] = []
    owner: type[BaseModel] | None = recipe
    current: list[type[BaseModel]] = [recipe]
    for part in location:
        holder = next((model for model in current if part in model.model_fields), None)
        if part.isdigit():  # an index into a list: the model of its items stays
            keys.append(part)
            continue
        if holder is None:
            kinds = [m for m in current if "kind" in m.model_fields and m.model_fields["kind"].default == part]
            if kinds:
                current = kinds
                continue
            owner = current[0] if len(current) == 1 else None
            keys.append(part)
            current = []
            continue
        owner = holder
        keys.append(part)
        annotation = holder.model_fields[part].annotation
        current = sections_in(annotation)
        if not current and get_origin(annotation) in (Union, UnionType):
            break  # what follows names one of the types that the value may have
    return keys, owner


def _kinds_with(recipe: type[BaseModel], keys: list[str]) -> list[str]:
    """The kinds of the section that holds the last of `keys` which have that key."""
    models: list[type[BaseModel]] = [recipe]
    for key in keys[:-1]:
        models = [
            below
            for model in models
            if key in model.model_fields
            for below in sections_in(model.model_fields[key].annotation)
        ]
    have = [model for model in models if "kind" in model.model_fields and keys[-1] in model.model_fields]
    return sorted({str(model.model_fields["kind"].default) for model in have})


def _kind_in(location: list[str]) -> str:
    """The kind that an error's location names, next to the keys; "" where there is none."""
    return location[-2] if len(location) > 1 else ""


def all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted names of all keys of a recipe, those of every kind of a section."""
    found: list[str] = []
    for key, info in model.model_fields.items():
        found.append(f"{prefix}{key}")
        for below in sections_in(info.annotation):
            found += all_keys(below, f"{prefix}{key}.")
    return list(dict.fromkeys(found))


def unusable(path: Path, why: str, fix: str) -> TfcliError:
    """The error for a recipe's file."""
    return TfcliError(f"{path}: {why}", fix=fix, code=ExitCode.USAGE)
