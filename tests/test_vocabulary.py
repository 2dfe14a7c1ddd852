"""The words of the project: none of those that it replaced is left in code, documents or messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import vocabulary


def test_no_replaced_word_is_left() -> None:
    assert vocabulary.findings() == []


def test_a_replaced_word_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "ROOT", tmp_path)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "a.py").write_text('def text_places_T() -> None:\n    """What mends it."""\n')
    (tmp_path / "README.md").write_text("# A title\n\nWhoever reads\n")
    found = [line.partition(" ->")[0] for line in vocabulary.findings()]
    assert found == ["stages/a.py:1: 'text_places_T'", "stages/a.py:2: 'mends'", "README.md:3: 'Whoever'"]
