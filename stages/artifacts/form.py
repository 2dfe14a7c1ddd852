"""Which files an artifact has, by name: each format declares them next to its description, kinds.py collects them.

A seal takes only these, and only these are deleted. Whatever else is in a growing folder belongs to somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Form:
    """files: of the sealed artifact. growing: what its folder holds only until the seal. Both are patterns of `matches`."""

    files: tuple[str, ...]
    growing: tuple[str, ...] = ()

    def growing_folders(self) -> list[str]:
        """The folders at the top that are there only until the seal."""
        return sorted({pattern.split("/")[0] for pattern in self.growing})

    def below(self, folder: str) -> list[str]:
        """The patterns of the files below a folder at the top, without its name."""
        start = f"{folder}/"
        return [pattern.removeprefix(start) for pattern in (*self.files, *self.growing) if pattern.startswith(start)]


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a path inside the folder is of one of the patterns: `#` stands for digits, `*` for characters other than `/`,
    `**` for any."""
    return matcher(patterns)(name)


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """`matches` for many names. Patterns that stand for one name are looked up: latents list each file of each shard, and files
    times patterns would be too many comparisons."""
    plain, expressions = set(), []
    for pattern in patterns:
        if "*" in pattern or "#" in pattern:
            expressions.append(_compiled(pattern))
        else:
            plain.add(pattern)
    return lambda name: name in plain or any(expression.fullmatch(name) for expression in expressions)


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*|#)", pattern)
    meaning = {"**": ".+", "*": "[^/]*", "#": "[0-9]+"}
    return re.compile("".join(meaning.get(part, re.escape(part)) for part in parts), re.DOTALL)
