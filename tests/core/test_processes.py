"""Workers start whatever TMPDIR is called."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.core.processes import short_folder

ROOT = Path(__file__).parents[2]
PROGRAM = """
from multiprocessing import process
from stages.core.processes import forkserver
if __name__ == "__main__":
    worker = forkserver().Process(target=print, args=("hello",))
    worker.start()
    worker.join()
    print(process.current_process()._config.get("tempdir"))
"""


@pytest.mark.parametrize("length", [40, 75, 76, 100, 200])
def test_a_worker_starts_with_a_tmpdir_of_any_length(length: int) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as outer:
        folder = Path(outer) / ("d" * (length - len(outer) - 1))
        folder.mkdir()
        assert len(str(folder)) == length
        program = Path(outer) / "program.py"
        program.write_text(PROGRAM)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
        done = subprocess.run(
            [sys.executable, str(program)], env=env, capture_output=True, text=True, check=False, timeout=60
        )
        said, used = done.stdout.split()
        assert (done.returncode, said) == (0, "hello"), done.stderr
        assert used.startswith(str(folder)) == (length <= 75)
        assert not Path(used).exists()  # it went with the process
        assert list(folder.iterdir()) == []


def test_no_short_place_is_code_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/" + "d" * 90)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(TfcliError, match="TMPDIR is too long") as caught:
        short_folder(32)
    assert caught.value.code == ExitCode.ENVIRONMENT
