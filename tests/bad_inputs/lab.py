"""Where a case of the tables is tried: a folder of its own, a few good pictures, a tiny autoencoder, the real command line.

A Case writes one hostile input and names the command; `try_case` runs it in this process and returns what a user would
see: the exit code and the lines that tell about the input.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.builders import make_autoencoder

RECIPE = """[source]
kind = "folder"
path = "pictures"
[images]
size = 16
[vae]
heldout_pictures = 2
[encode]
batch_size = 4
shard_rows = 4
check_pictures = 2
[tokenize.tokenizer]
vocab_size = 300
[pack]
row_length = 64
heldout_fraction = 0.2
[model]
width = 16
layers = 1
heads = 1
[train]
steps = 1
warmup_steps = 0
batch_rows = 1
"""
GOOD = 6  # pictures that every folder has beside the hostile one


@dataclass(frozen=True)
class Outcome:
    """code: of the process. lines: of stderr from `error:` on; for a run that went well what it left out and what it noted."""

    code: int
    lines: tuple[str, ...]
    stderr: str


@dataclass(frozen=True)
class Case:
    """One row. number: of the list in the reference. make: writes the input and returns more of the command line.

    says: what the outcome must hold whatever the document says. check: what else must be true. note: for the document,
    e.g. where the list is not followed and why. held: tests elsewhere that hold more of it, "file::name" below tests/.
    """

    number: int
    name: str
    make: Callable[[Lab], tuple[str, ...] | None]
    code: int
    says: tuple[str, ...]
    command: str = "encode"
    check: Callable[[Lab, Outcome], None] | None = None
    note: str = ""
    held: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.number}-{re.sub('[^A-Za-z0-9]+', '-', self.name).strip('-')}"


class Shelf:
    """What is made once for all cases."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def autoencoder(self) -> Path:
        return make_autoencoder(self.folder / "autoencoder")

    @cached_property
    def finished(self) -> Path:
        """A work folder with autoencoder, latents, tokens and sequences, and the pictures that they were made from."""
        with pytest.MonkeyPatch.context() as patch:
            lab = Lab(self.folder / "finished", self, patch)
            for stage in ("encode", "tokenize", "pack"):
                outcome = lab.run(stage)
                assert outcome.code == 0, outcome.stderr
        return self.folder / "finished"

    @cached_property
    def trained(self) -> Path:
        """The same with a checkpoint, of one step of training."""
        with pytest.MonkeyPatch.context() as patch:
            lab = Lab(self.folder / "trained", self, patch)
            lab.finish()
            outcome = lab.run("train")
            assert outcome.code == 0, outcome.stderr
        return self.folder / "trained"

    @cached_property
    def pictures(self) -> list[bytes]:
        rng = np.random.default_rng(0)
        return [png(Image.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8))) for _ in range(GOOD)]


class Lab:
    """The folder of one case, which is also the current folder, so that paths in messages are short."""

    def __init__(self, folder: Path, shelf: Shelf, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.shelf = shelf
        self.patch = patch
        self.stdin = b""
        self.open = ExitStack()  # what a case holds until it ends: a lock, a socket
        (folder / "pictures").mkdir(parents=True)
        (folder / "work").mkdir()
        (folder / "recipe.toml").write_text(RECIPE)
        shutil.copytree(shelf.autoencoder, folder / "work" / "autoencoder")
        for number, data in enumerate(shelf.pictures):
            self.add(f"good{number}.png", data)
        patch.chdir(folder)
        patch.setattr(os, "fsync", lambda _: None)  # no power is cut here

    def finish(self, *, trained: bool = False) -> Path:
        """Have latents, tokens and sequences (trained: and a checkpoint) lie in the work folder; returns it."""
        made = self.shelf.trained if trained else self.shelf.finished
        shutil.rmtree(self.folder / "work")
        shutil.copytree(made / "work", self.folder / "work")
        return self.folder / "work"

    def add(self, name: str, data: bytes, caption: str | bytes | None = "a small thing") -> Path:
        """A picture below pictures/ and its caption."""
        path = self.folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if caption is not None:
            text = caption if isinstance(caption, bytes) else caption.encode()
            path.with_suffix(".txt").write_bytes(text)
        return path

    def run(self, command: str, *more: str) -> Outcome:
        """`tfcli COMMAND` in this process; a stage gets the recipe and the work folder."""
        from tfcli.app import app

        args = command.split()
        alone = args[0] == "sample" and len(args) > 1  # 'sample work' names its checkpoint itself
        if args[0] in ("vae", "encode", "tokenize", "pack", "train", "sample") and "-r" not in more and not alone:
            args += ["-r", "recipe.toml"]
        if args[0] not in ("verify", "inspect", "recipe") and "--work" not in more and not alone:
            args += ["--work", "work"]
        if args[0] not in ("verify", "inspect", "recipe"):
            args += ["--workers", "0"] if "--workers" not in more else []
            args += ["--device", "cpu"] if "--device" not in more else []
        result = CliRunner().invoke(app, [*args, *more], prog_name="tfcli", input=self.stdin)
        lines = self._lines(result.exit_code, result.stderr)
        if result.exit_code == 0 and "--dry-run" in more:
            lines = tuple(self.plain(line) for line in result.stdout.splitlines())
        return Outcome(result.exit_code, lines, result.stderr)

    def _lines(self, code: int, stderr: str) -> tuple[str, ...]:
        if code:
            shown = stderr[stderr.find("error: ") :].splitlines()
            return tuple(self.plain(line) for line in shown if line.strip())
        found = [self.plain(f"{row['path']}: {row['reason']} ({row['message']})") for row in self.left_out()]
        notes = self.stats().get("notes", {})
        return (*found, *(f"counted: {name}" for name in notes)) or ("goes through",)

    def plain(self, text: str) -> str:
        """`text` without what differs from run to run."""
        text = text.replace(str(self.folder.resolve()) + "/", "").replace(str(self.folder) + "/", "")
        text = text.replace(str(self.folder), ".")
        text = re.sub(r"\d[\d,]* MiB are free", "N MiB are free", text)
        text = re.sub(r"(digest|built on) [0-9a-f]{12}", r"\1 ...", text)
        text = re.sub(r"about \S+ \S+ on this machine", "about N s on this machine", text)
        text = re.sub(r"fresh, [0-9a-f]{12}", "fresh, ...", text)
        text = re.sub(r"pid \d+ on \S+", "pid N on HOST", text)
        return re.sub(r"0x[0-9a-f]{8,}", "0x...", text)

    def left_out(self) -> list[dict[str, Any]]:
        path = self.folder / "work" / "latents" / "errors.jsonl"
        if not path.exists():
            return []
        lines = path.read_bytes().decode("utf-8", "surrogatepass").splitlines()
        return [{**row, "path": shown(row["path"]), "message": shown(row["message"])} for row in map(json.loads, lines)]

    def stats(self) -> dict[str, Any]:
        path = self.folder / "work" / "latents" / "manifest.json"
        return json.loads(path.read_bytes())["stats"] if path.exists() else {}

    def manifest(self, kind: str) -> Any:
        return json.loads((self.folder / "work" / kind / "manifest.json").read_bytes())

    def sealed(self) -> dict[str, str]:
        """Digest of each artifact that is there under its final name; a folder without a manifest counts as `half`."""
        found = {}
        for path in sorted((self.folder / "work").glob("*")):
            if path.is_dir() and not path.name.endswith(".partial"):
                manifest = path / "manifest.json"
                found[path.name] = manifest.read_text() if manifest.exists() else "half"
        return found


def shown(text: str) -> str:
    """A name as the command line prints it."""
    from stages.core.text import printable

    return printable(text)


def png(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A picture as a file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sets(*settings: str) -> tuple[str, ...]:
    """--set KEY=VALUE for each."""
    return tuple(word for setting in settings for word in ("--set", setting))


def try_case(case: Case, folder: Path, shelf: Shelf) -> Outcome:
    """Run the case below `folder` and check what is true of every case; returns what the user saw."""
    with pytest.MonkeyPatch.context() as patch:
        lab = Lab(folder, shelf, patch)
        with lab.open:
            more = case.make(lab) or ()
            before = lab.sealed()
            outcome = lab.run(case.command, *more)
            assert "Traceback" not in outcome.stderr, outcome.stderr
            assert outcome.code != 1, f"a bug of ours: {outcome.stderr}"
            if outcome.code:
                assert outcome.lines, outcome.stderr
                assert outcome.lines[0].startswith("error: "), outcome.stderr
                assert lab.sealed() == before, "a command that failed left something under a final name"
            if case.check is not None:
                case.check(lab, outcome)
    return outcome
