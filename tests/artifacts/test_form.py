"""Patterns of file names, and that a seal of many files compares each with a few of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from stages.artifacts import form
from stages.artifacts.folder import building
from stages.artifacts.form import matches
from stages.artifacts.manifest import Stamp
from stages.core.runtime import Runtime


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("a.png", "a.png", True),
        ("axpng", "a.png", False),
        ("b/a.png", "a.png", False),
        ("step-12.png", "step-#.png", True),
        ("step-.png", "step-#.png", False),
        ("step-1a.png", "step-#.png", False),
        ("a/b", "*", False),
        ("", "*", True),
        ("a/b", "**", True),
        ("a\nb", "*", True),
    ],
)
def test_what_a_pattern_stands_for(name: str, pattern: str, expected: bool) -> None:
    assert matches(name, (pattern,)) is expected
    assert matches(name, ("other", pattern)) is expected


def test_a_seal_does_not_compare_every_file_with_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents list each file of each shard: 4,000 files took 20 s."""
    compared = 0
    real = form._compiled

    class Counting:
        def __init__(self, pattern: re.Pattern[str]) -> None:
            self.pattern = pattern

        def fullmatch(self, name: str) -> re.Match[str] | None:
            nonlocal compared
            compared += 1
            return self.pattern.fullmatch(name)

    monkeypatch.setattr(form, "_compiled", lambda pattern: Counting(real(pattern)))
    names = [f"documents/{number:05}.jsonl" for number in range(60)]
    with building(tmp_path / "latents", Stamp("latents", "encode", 1, 0, {}), Runtime()) as build:
        (build.folder / "documents").mkdir()
        for name in names:
            (build.folder / name).write_text(name)
        made = build.seal({}, {}, files=names)
    assert [entry.path for entry in made.files] == names
    assert compared <= 10 * len(names)
