"""Scores: what evaluation measured.

scores.json     the figures       judged.jsonl  one judged document a line
mistakes.png    the pictures that the judge found wrong (absent where there is nothing to judge)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.artifacts.form import Form
from stages.artifacts.manifest import Manifest, open_artifact
from stages.artifacts.schema import Schema
from stages.core.reading import read_bounded

SCORES, JUDGED, MISTAKES = "scores.json", "judged.jsonl", "mistakes.png"
SCHEMA = Schema(1)
FORM = Form(files=(SCORES, JUDGED, MISTAKES))


@dataclass(frozen=True)
class Scores:
    """Sealed scores."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Scores:
        return cls(folder, open_artifact(folder, "scores"))

    def figures(self) -> dict[str, Any]:
        figures: dict[str, Any] = json.loads(read_bounded(self.folder / SCORES))
        return figures
