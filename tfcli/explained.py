"""Keys of recipes as text for people: what `tfcli recipe explain` prints, and a resolved recipe with comments."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from stages.recipe import Recipe
from stages.recipe_keys import Key, KeyMatch, KeySection
from stages.recipe_origins import recipe_values
from tfcli.toml import toml_value

_WIDTH = 100


def default_text(key: Key) -> str:
    """The default of a key as a recipe would write it."""
    if key.required:
        return "required"
    if key.default is None:
        return "not set"
    if key.is_section and isinstance(key.default, dict):
        kind = key.default.get("kind")
        return f"kind = {toml_value(kind)}" if kind else ""
    return toml_value(key.default)


def found_text(found: KeyMatch) -> str:
    """The key, or what each kind of its section says of it, and all keys of the sections below."""
    blocks = []
    for key, kinds in _alike(found.keys):
        only = f" (with kind = {' or '.join(map(toml_value, kinds))})" if any(kinds) else ""
        if not key.name.endswith("kind") or not any(kinds):
            blocks.append(_key_text(key, only))
        else:
            blocks.append(_wrapped(f"{key.name} = {key.type}", key.description))
    for section in found.sections:
        blocks.append(_section_title(section))
        blocks += [_key_text(key) for key in section.keys if not (section.kind and key.name.endswith(".kind"))]
    return "\n".join(blocks)


def sections_text(sections: list[KeySection]) -> str:
    """Each section once, with what it is; the keys of the top as they are."""
    blocks = [_key_text(key) for section in sections if not section.name for key in section.keys if not key.is_section]
    about = {key.name: key.description for section in sections for key in section.keys if key.is_section}
    names = dict.fromkeys(section.name for section in sections if section.name)
    blocks += [_wrapped(f"[{name}]", about[name]) for name in names]
    return "\n".join(blocks)


def commented_toml(recipe: Recipe, origins: Mapping[str, str]) -> str:
    """A resolved recipe as TOML that can be used as a recipe again, each key with its description and where it is from."""
    lines: list[str] = []
    section = ""
    for name, value, description in _plain_first(recipe):
        head, _, key = name.rpartition(".")
        if head != section:
            section = head
            lines.append(f"\n[{section}]")
        lines += [f"# {line}" for line in textwrap.wrap(description, _WIDTH - 2)]
        if value is None:
            lines.append(f"# {key} is not set")
        else:
            lines.append(f"{key} = {toml_value(value)}  # {_one_line(origins[name])}")
    return "\n".join(lines) + "\n"


def _plain_first(recipe: Recipe) -> list[tuple[str, Any, str]]:
    """The values with those of one section together: in TOML a key after a sub-section would belong to that one."""
    values = list(recipe_values(recipe))
    parts = [name.split(".")[:-1] for name, _, _ in values]
    sections = dict.fromkeys(".".join(names[:end]) for names in parts for end in range(len(names) + 1))
    return [value for section in sections for value in values if value[0].rpartition(".")[0] == section]


def _alike(keys: tuple[Key, ...]) -> Iterator[tuple[Key, list[str]]]:
    """Keys that differ in the kind of their section alone as one, with these kinds; none where all kinds have it alike."""
    groups: dict[tuple[str, str, str], list[Key]] = {}
    for key in keys:
        groups.setdefault((key.type, default_text(key), key.description), []).append(key)
    for group in groups.values():
        yield group[0], [key.kind for key in group if key.kind]


def _section_title(section: KeySection) -> str:
    kind = f" kind = {toml_value(section.kind)}" if section.kind else ""
    text = f"{section.about} The same keys as [{section.same_as}]." if section.same_as else section.about
    return _wrapped(f"\n[{section.name}]{kind}", text)


def _key_text(key: Key, more: str = "") -> str:
    default = default_text(key)
    return _wrapped(f"{key.name}{more}: {key.type}" + (f"; {_stated(default)}" if default else ""), key.description)


def _stated(default: str) -> str:
    return default if default in ("required", "not set") else f"default {default}"


def _wrapped(title: str, text: str) -> str:
    return "\n".join([title, *textwrap.wrap(text, _WIDTH, initial_indent="    ", subsequent_indent="    ")])


def _one_line(text: str) -> str:
    """In a TOML comment: no control characters."""
    return "".join(char if char.isprintable() else "?" for char in text)
