"""The peer that benchmarks run against, transfusion-pytorch, in an environment of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PEER = "transfusion-pytorch==0.20.0"
_PACKAGES = ("torch==2.13.0", PEER)


def peer_python() -> Path:
    """The Python that has the peer and the torch that we have too; made under work/bench/peer at the first call.

    Needs a package index. A half-made environment is made anew: the mark is written last.
    """
    folder = Path("work/bench/peer")
    python, mark = folder / "bin" / "python", folder / "packages.txt"
    if not mark.exists() or mark.read_text() != "\n".join(_PACKAGES):
        print(f"installing {PEER} into {folder} (once) ...", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *_PACKAGES]
        subprocess.run(command, check=True, stdout=sys.stderr)
        mark.write_text("\n".join(_PACKAGES))
    return python.absolute()


class PeerProcess:
    """A script of this folder in the peer's environment: a task is a line of JSON, and so is its answer. The script says
    `greeting` first; between tasks it waits."""

    def __init__(self, script: str) -> None:
        command = [str(peer_python()), str(Path(__file__).with_name(script))]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self.greeting = self._answer()

    def ask(self, **task: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps(task), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the peer ended with {self._process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
