"""What changed between two ways to make an artifact: settings and inputs by name."""

from __future__ import annotations

import json
from typing import Any


def what_changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The settings and inputs in which two `inputs` differ, by name."""
    before, now = _by_name(old), _by_name(new)
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(changed[:4]) + (" ..." if len(changed) > 4 else "")


def _by_name(inputs: dict[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(inputs))
    return {
        "seed": plain["seed"],
        "schema": plain["schema_version"],
        "stage version": plain["stage_version"],
        **{f"{name} files": value for name, value in (plain["outside"] or {}).items()},
        **_flat(plain["config"]),
        **plain["inputs"],
    }


def without(tree: dict[str, Any], names: frozenset[str], prefix: str = "") -> dict[str, Any]:
    """A tree of settings less those of the dotted `names`."""
    kept = {key: value for key, value in tree.items() if f"{prefix}{key}" not in names}
    return {
        key: without(value, names, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in kept.items()
    }


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat
