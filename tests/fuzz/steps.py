"""What a case does to its place before a command runs: each step can be done here and be written as a line of shell.

Paths are relative to the project's folder. A path that is gone (an earlier step, or the minimiser, took it away) makes a step
do nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.hashing import hash_value
from tests.fuzz.world import Place


@dataclass(frozen=True)
class Step:
    """op: one of OPS. value: bit, length, other path, target, mode, or (keys, value, reseal) of an edit."""

    op: str
    path: str
    value: Any = None
    data: bytes = b""

    def apply(self, place: Place) -> None:
        path = place.project / self.path
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            getattr(self, f"_{self.op}")(path, place)

    def shell(self, number: int) -> str:
        """number: of the step, which names the file that holds its data."""
        name = shlex.quote(self.path)
        if self.op == "flip":
            byte, bit = divmod(self.value, 8)
            change = (
                f"p = sys.argv[1]; d = bytearray(open(p, 'rb').read()); d[{byte}] ^= {1 << bit}; open(p, 'wb').write(d)"
            )
            return f'python -c "import sys; {change}" {name}'
        if self.op == "edit":
            keys, value, reseal = self.value
            shown = json.dumps(value)
            shown = shown if len(shown) < 200 else f"{shown[:80]}... ({len(shown)} characters)"
            return (
                f"# in {self.path} set {'.'.join(map(str, keys))} to {shown}{', its sums made again' if reseal else ''}"
            )
        lines = {
            "cut": f"truncate -s {self.value} {name}",
            "swap": f"mv {name} /tmp/x; mv {shlex.quote(str(self.value))} {name}; mv /tmp/x {shlex.quote(str(self.value))}",
            "copy": f"cp -r {name} {shlex.quote(str(self.value))}",
            "link": f"rm -rf {name}; ln -s {shlex.quote(str(self.value))} {name}",
            "fifo": f"rm -rf {name}; mkfifo {name}",
            "folder": f"rm -rf {name}; mkdir {name}",
            "delete": f"rm -rf {name}",
            "write": f"mkdir -p $(dirname {name}); cp step-{number}.data {name}",
            "mode": f"chmod {self.value:o} {name}" if self.op == "mode" else "",
        }
        return lines[self.op]

    def _flip(self, path: Path, _: Place) -> None:
        data = bytearray(path.read_bytes())
        if data:
            data[self.value // 8 % len(data)] ^= 1 << self.value % 8
            path.write_bytes(data)

    def _cut(self, path: Path, _: Place) -> None:
        if path.is_file():
            os.truncate(path, self.value)

    def _swap(self, path: Path, place: Place) -> None:
        other = place.project / self.value
        away = Path(tempfile.mkdtemp(dir=place.folder / "tmp")) / "x"
        if other.exists():
            os.replace(path, away)
            os.replace(other, path)
            os.replace(away, other)

    def _copy(self, path: Path, place: Place) -> None:
        if path.is_dir():
            shutil.copytree(path, place.project / self.value, symlinks=True)
        else:
            shutil.copyfile(path, place.project / self.value)

    def _link(self, path: Path, place: Place) -> None:
        _remove(path)
        os.symlink(self.value.replace("HOME", str(place.home)), path)

    def _fifo(self, path: Path, _: Place) -> None:
        _remove(path)
        os.mkfifo(path)

    def _folder(self, path: Path, _: Place) -> None:
        _remove(path)
        path.mkdir()

    def _delete(self, path: Path, _: Place) -> None:
        _remove(path)

    def _write(self, path: Path, _: Place) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.data)

    def _mode(self, path: Path, _: Place) -> None:
        path.chmod(self.value)

    def _edit(self, path: Path, place: Place) -> None:
        keys, value, reseal = self.value
        if isinstance(value, str):
            value = value.replace("HOME", str(place.home))
        lines = path.read_bytes().decode().split("\n") if path.suffix == ".jsonl" else [path.read_text()]
        line = 0
        if path.suffix == ".jsonl":
            line, keys = keys[0], keys[1:]
        tree = json.loads(lines[line])
        below = tree
        for key in keys[:-1]:
            below = below[key]
        below[keys[-1]] = value
        if reseal:
            _reseal(tree, path)
        lines[line] = json.dumps(tree)
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
        if reseal and path.name not in ("manifest.json", "plan.json"):
            _relist(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _reseal(tree: Any, path: Path) -> None:
    """Make the sums of a record agree with its content, as somebody who wants to be believed would."""
    if path.name == "manifest.json" and "digest" in tree:
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            listed = sorted(
                [entry["path"], entry["bytes"], entry["sha256"]] for entry in tree["files"] if not entry["volatile"]
            )
            below = {name: entry["digest"] for name, entry in tree["inputs"].items()}
            tree["digest"] = hash_value([hash_value(listed), tree["content"], below])
    if isinstance(tree, dict) and "sha256" in tree:
        rest = {key: value for key, value in tree.items() if key != "sha256"}
        with contextlib.suppress(ValueError, TypeError):
            tree["sha256"] = hash_value(rest)


def _relist(path: Path) -> None:
    """The same for the manifest of the artifact that holds the file."""
    import hashlib

    folder = next((parent for parent in path.parents if (parent / "manifest.json").is_file()), None)
    if folder is None:
        return
    tree = json.loads((folder / "manifest.json").read_bytes())
    name, data = path.relative_to(folder).as_posix(), path.read_bytes()
    for entry in tree["files"]:
        if entry["path"] == name:
            entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            _reseal(tree, folder / "manifest.json")
            (folder / "manifest.json").write_text(json.dumps(tree))
