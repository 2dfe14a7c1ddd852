"""What the keys of a recipe are: name, type, default and description of each, read off the sections that define them.

A section that may be of several kinds (`source`, `vae`) is listed once for each kind.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from stages.core.config import sections_in
from stages.core.reading import read_bounded
from stages.recipe import Recipe

EXTENDS = "extends"
EXTENDS_ABOUT = (
    "A recipe to start from, by its file (relative to this one) or its name: keys that are not set here are taken from it. A "
    "section whose kind changes is replaced whole. Only one level: that recipe cannot extend another."
)
_BOUNDS = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "multiple_of": "a multiple of {}",
}


@dataclass(frozen=True)
class Key:
    """A key of one section.

    name: in full, such as "train.ema_decay". kind: of its section, "" where that has no kinds. type: in words. default: as a
    plain value, None where it is not set.
    """

    name: str
    kind: str
    type: str
    default: Any
    required: bool
    is_section: bool
    description: str


@dataclass(frozen=True)
class KeySection:
    """A section of one kind. about: what it is, or of a section with kinds what this one is. same_as: the name of another section
    that has the same keys and lists them, or ""."""

    name: str
    kind: str
    about: str
    keys: tuple[Key, ...]
    same_as: str = ""


@dataclass(frozen=True)
class KeyMatch:
    """What a name stands for: a key (one for each kind that has it), and the sections below it."""

    keys: tuple[Key, ...]
    sections: tuple[KeySection, ...]


def all_sections() -> list[KeySection]:
    """Every section, in the order of a recipe; the keys of the top come first, under the name ""."""
    return list(_sections_of("", Recipe, {}))


def all_names() -> list[str]:
    """Every key, with those of all kinds of a section."""
    return list(dict.fromkeys(key.name for section in all_sections() for key in section.keys))


def find(name: str) -> KeyMatch | None:
    """The key or section of that name; None where there is none. It may hold names and numbers of entries, such
    as "source.of.photos.path" and "tokenize.text.0.path"."""
    models: Sequence[type[BaseModel]] = [Recipe]
    keys: list[Key] = []
    parts = name.split(".")
    is_named = is_numbered = False  # whether the next part may be the name, or the number, of an entry
    for number, part in enumerate(parts):
        if is_named or (is_numbered and part.isdigit()):
            is_named = is_numbered = False
            continue
        holders = [model for model in models if part in model.model_fields]
        if number == 0 and part == EXTENDS and len(parts) == 1:
            return KeyMatch((_extends(),), ())
        if not holders:
            return None
        prefix = ".".join(parts[:number])
        keys = [_key(f"{prefix}." if prefix else "", model, part) for model in holders]
        annotations = [model.model_fields[part].annotation for model in holders]
        models = list(dict.fromkeys(below for each in annotations for below in sections_in(each)))
        is_named = any(get_origin(each) is dict for each in annotations)
        is_numbered = any(get_origin(each) is tuple for each in annotations)
    below = [section for model in models for section in _sections_of(name, model, {})]
    return KeyMatch(tuple(keys), tuple(below))


def near(name: str) -> list[str]:
    """Up to three keys and sections whose names are like `name`: those that are as a whole, then those whose last part is, then
    those whose last part has it as a word ("ema" in "ema_decay")."""
    names = [*all_names(), *dict.fromkeys(section.name for section in all_sections() if section.name)]
    by_last: dict[str, list[str]] = {}
    for other in names:
        by_last.setdefault(other.rpartition(".")[2], []).append(other)
    alike = difflib.get_close_matches(name, names, n=3, cutoff=0.7)
    lasts = difflib.get_close_matches(name.rpartition(".")[2], by_last, n=2, cutoff=0.7)
    worded = [last for last in by_last if name in last.split("_")]
    return list(dict.fromkeys([*alike, *(other for last in [*lasts, *worded] for other in by_last[last])]))[:3]


def described(model: type[BaseModel], name: str) -> str:
    """The description of a field, on one line: the string below it in the class that defines it."""
    for each in model.__mro__:
        if name in inspect.get_annotations(each):
            path = sys.modules[each.__module__].__file__
            return _strings_below_fields(path).get((each.__name__, name), "") if path else ""
    return ""


@cache
def _strings_below_fields(path: str) -> dict[tuple[str, str], str]:
    """By class and field, of all classes of a file."""
    found = {}
    for each in ast.walk(ast.parse(read_bounded(Path(path)))):
        if not isinstance(each, ast.ClassDef):
            continue
        for field, below in pairwise(each.body):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[each.name, field.target.id] = " ".join(str(below.value.value).split())
    return found


def models_of(model: type[BaseModel]) -> list[type[BaseModel]]:
    """Every section below a model, each once."""
    found: dict[type[BaseModel], None] = {}
    waiting = [model]
    while waiting:
        for info in waiting.pop().model_fields.values():
            below = [each for each in sections_in(info.annotation) if each not in found]
            found.update(dict.fromkeys(below))
            waiting += below
    return list(found)


def _sections_of(name: str, model: type[BaseModel], listed: dict[type[BaseModel], str]) -> Iterator[KeySection]:
    """The section and those below it. listed: of each model that was met, the name of its section."""
    kind = _kind(model)
    about = described(model, "kind") if kind else " ".join((inspect.getdoc(model) or "").split())
    if model in listed:
        yield KeySection(name, kind, about, (), listed[model])
        return
    listed[model] = name
    prefix = f"{name}." if name else ""
    keys = [_key(prefix, model, field) for field in model.model_fields]
    yield KeySection(name, kind, about, (*keys, *([] if name else [_extends()])))
    for field, info in model.model_fields.items():
        for below in sections_in(info.annotation):
            yield from _sections_of(f"{prefix}{field}", below, listed)


def _key(prefix: str, model: type[BaseModel], name: str) -> Key:
    info = model.model_fields[name]
    required = info.is_required() and f"{prefix}{name}" != "name"  # that of the file stands in
    return Key(
        name=f"{prefix}{name}",
        kind=_kind(model),
        type=type_words(info),
        default=None if info.is_required() else _plain(info.get_default(call_default_factory=True)),
        required=required,
        is_section=bool(sections_in(info.annotation)),
        description=described(model, name),
    )


def _extends() -> Key:
    return Key(EXTENDS, "", "text", None, False, False, EXTENDS_ABOUT)


def _kind(model: type[BaseModel]) -> str:
    return str(model.model_fields["kind"].default) if "kind" in model.model_fields else ""


def _plain(value: Any) -> Any:
    """A default as TOML has it; of a section its kind alone."""
    if isinstance(value, BaseModel):
        return {"kind": getattr(value, "kind")} if hasattr(value, "kind") else {}  # noqa: B009
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def type_words(info: FieldInfo) -> str:
    """The type of a field and its bounds, in words: "number, at least 0 and below 1"."""
    return _bounded(_words(info.annotation, many=False), info.metadata)


def _bounded(words: str, metadata: Sequence[Any], of_what: str = "") -> str:
    bounds = [
        form.format(_number(getattr(each, name)))
        for each in metadata
        for name, form in _BOUNDS.items()
        if getattr(each, name, None) is not None
    ]
    bounds += ["not empty" for each in metadata if getattr(each, "min_length", None)]
    bounds += [f"at most {each.max_length} characters" for each in metadata if getattr(each, "max_length", None)]
    bounds += [f"of the form {each.pattern}" for each in metadata if getattr(each, "pattern", None)]
    return f"{words}, {of_what}{' and '.join(bounds)}" if bounds else words


def _words(annotation: Any, *, many: bool) -> str:
    """many: in the plural."""
    plain = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
    if annotation in plain:
        return plain[annotation] + ("s" if many and annotation is not bool else "")
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _either([f'"{each}"' if isinstance(each, str) else str(each).lower() for each in args])
    if origin is tuple:
        if args[-1] is ...:
            return f"list{'s' if many else ''} of {_words(args[0], many=True)}"
        return f"list of {len(args)} {_words(args[0], many=True)}"
    if origin is dict:
        return f"table{'s' if many else ''} of names and {_words(args[1], many=True)}"
    if hasattr(
        annotation, "__metadata__"
    ):  # Annotated: bounds of the items of a list or a table, or of one of several kinds
        found = [each.metadata if isinstance(each, FieldInfo) else [each] for each in annotation.__metadata__]
        bounds = [each for every in found for each in every]
        return _bounded(_words(args[0], many=many), bounds, "each " if many else "")
    if sections_in(annotation) and not any(get_origin(each) or each in plain for each in args):
        kinds = [f'"{kind}"' for model in sections_in(annotation) if (kind := _kind(model))]
        section = "tables" if many else "section"
        return f"{section}, kind {_either(kinds)}" if len(kinds) > 1 else section
    return _either([_words(each, many=many) for each in args if each is not NoneType])


def _number(bound: float) -> str:
    if isinstance(bound, int):
        return f"2^{bound.bit_length() - 1}" if bound > 1 << 53 else f"{bound:,}"
    return f"{bound:g}"


def _either(words: list[str]) -> str:
    words = list(dict.fromkeys(words))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
