"""Memory that a machine cannot have is refused before it is asked for; what may fit never is."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.core import memory
from stages.core.errors import ExitCode, TfcliError
from stages.core.memory import all_bytes, require_memory


def test_all_memory_is_that_of_the_machine_and_its_swap(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       1000 kB\nMemAvailable:    10 kB\nSwapTotal:       24 kB\n")
    assert all_bytes(meminfo) == 1024 * 1024
    meminfo.write_text("MemTotal:       1000 kB\n")
    assert all_bytes(meminfo) == 1000 * 1024
    assert all_bytes(tmp_path / "none") is None


def test_more_than_all_is_refused_with_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "all_bytes", lambda: 2**31)
    require_memory(2**31, "a thing", "make it smaller")
    with pytest.raises(TfcliError) as caught:
        require_memory(2**31 + 2**30, "a thing", "make it smaller")
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert caught.value.what == "a thing does not fit into memory"
    assert "at least 3.0 GiB, this machine has 2.0 GiB" in caught.value.why
    monkeypatch.setattr(memory, "all_bytes", lambda: None)
    require_memory(2**60, "a thing", "make it smaller")
