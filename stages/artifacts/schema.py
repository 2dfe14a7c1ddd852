"""The schema of each kind of artifact: its number, and how the `content` of an older one is upgraded.

Each kind declares its own in artifacts/<kind>.py, as SCHEMA. A change of its files or of its `content` raises the number. Where
old files can still be read, an upgrade turns the old `content` into the new one, so that finished work stays usable: for a field
`x` that is added to the content of schema 2,

    SCHEMA = Schema(3, {2: lambda content: {**content, "x": 0}})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Schema:
    """version: of new artifacts. upgrades: by number, what turns `content` of that schema into `content` of the next one."""

    version: int
    upgrades: Mapping[int, Upgrade] = field(default_factory=dict)

    def reads(self, version: int) -> bool:
        """Whether an artifact of schema `version` can be read: the current one, or one with upgrades up to the current one."""
        return version <= self.version and all(number in self.upgrades for number in range(version, self.version))

    def upgraded(self, content: dict[str, Any], version: int) -> dict[str, Any]:
        """`content` of schema `version` as the current schema has it. The given dictionary is not changed."""
        for number in range(version, self.version):
            content = self.upgrades[number](content)
        return content


def schema_of(kind: str) -> Schema:
    """SCHEMA in the file of a kind. Imported at the call: the files of all kinds need manifest.py, which needs this."""
    schema: Schema = import_module(f"stages.artifacts.{kind}").SCHEMA
    return schema
