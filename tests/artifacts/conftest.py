"""The tests of this folder make artifacts of files by any name; tests/fuzz/test_strays.py has the files of each kind."""

from __future__ import annotations

import pytest

from stages.artifacts.form import Form
from stages.artifacts.kinds import FORMS


@pytest.fixture(autouse=True)
def any_files(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in FORMS:
        monkeypatch.setitem(FORMS, kind, Form(("**",), ("units/*", "saves/**")))
