"""Plain values as TOML text: what `tomllib` reads back as the same values. None has no form in TOML and is left out."""

from __future__ import annotations

import re
from typing import Any


def to_toml(tree: dict[str, Any], prefix: str = "") -> str:
    """A document with a [section] for each table; tables inside arrays are written inline."""
    plain = {key: value for key, value in tree.items() if not isinstance(value, dict) and value is not None}
    lines = [f"{_key(key)} = {toml_value(value)}\n" for key, value in plain.items()]
    for key, value in tree.items():
        if isinstance(value, dict):
            name = f"{prefix}{_key(key)}"
            lines.append(f"\n[{name}]\n{to_toml(value, f'{name}.')}")
    return "".join(lines)


def toml_value(value: Any) -> str:
    """One value on one line."""
    if isinstance(value, str):
        return '"' + "".join(_character(char) for char in value) + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    assert isinstance(value, dict), f"no TOML for {type(value)}"
    pairs = [f"{_key(key)} = {toml_value(item)}" for key, item in value.items() if item is not None]
    return "{" + ", ".join(pairs) + "}"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)


def _character(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
