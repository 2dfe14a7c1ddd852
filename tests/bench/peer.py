"""The peer that benchmarks run against, transfusion-pytorch, in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

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
