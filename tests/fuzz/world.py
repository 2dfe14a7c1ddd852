"""The small world of a case: a home with files that are nobody's business, a project in it, a finished work folder.

It is made once a run, by the real command line; each case gets a copy. Layout of a case:

    CASE/home/.bashrc, victim.txt, neighbour/...     canaries: whatever happens, they stay as they are
    CASE/home/project/recipe.toml, pictures/, other/  what the user gave
    CASE/home/project/work/                           the work folder: finished, or with stages half done
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fuzz.child import Outcome, run_tfcli

RECIPE = """name = "tiny"
[source]
kind = "folder"
path = "pictures"
[images]
size = 16
[vae]
channels = [4, 4]
norm_groups = 2
latent_channels = 2
steps = 4
batch_size = 4
heldout_pictures = 2
save_every = 2
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
steps = 4
warmup_steps = 0
batch_rows = 1
save_every = 2
eval_every = 2
eval_rows = 1
[sample]
prompts = ["a small thing"]
heldout_prompts = 1
captions = 1
continued = 0
free = 1
[sample.generation]
sampler = { kind = "ddim", steps = 2 }
max_text_tokens = 4
max_images = 1
[eval]
text_to_image = 1
image_to_text = 1
free = 1
[eval.generation]
sampler = { kind = "ddim", steps = 2 }
max_text_tokens = 4
max_images = 1
"""
PICTURES = 12
STAGES = {  # in order: the kind that each makes
    "vae": "autoencoder",
    "encode": "latents",
    "tokenize": "tokens",
    "pack": "sequences",
    "train": "checkpoint",
    "sample": "samples",
    "eval": "scores",
}
READERS = {  # the stages that read each kind
    "autoencoder": ("encode", "sample"),
    "latents": ("tokenize", "pack", "train"),
    "tokens": ("pack", "sample"),
    "sequences": ("train",),
    "checkpoint": ("sample", "eval"),
    "samples": ("sample",),
    "scores": ("eval",),
}
# The half work folder: the stage, and the file whose renaming is the moment at which it was killed.
HALVES = {"vae": "state/state.json", "encode": "units/shard-00001.json", "train": "saves/step-00000002"}
COMMON = ("--device", "cpu", "--workers", "0")
LIMIT = 60.0  # seconds; a stage here takes less than one (the autoencoder's four)


@dataclass(frozen=True)
class Entry:
    """What is known of a path: kind and mode, size, time of change, content."""

    mode: int
    size: int
    mtime: int
    content: str


Snapshot = dict[str, Entry]


class Place:
    """The folder of one case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.project = self.home / "project"
        self.work = self.project / "work"

    def run(self, *args: str, limit: float = LIMIT, kill: Callable[[], None] | None = None) -> Outcome:
        """`tfcli ARGS` in the project's folder."""
        return run_tfcli(list(args), self.project, self.home, limit, kill)

    def digests(self) -> dict[str, str]:
        """The digest that each artifact under its final name states; "unreadable" where it states none."""
        found = {}
        for kind in STAGES.values():
            path = self.work / kind / "manifest.json"
            if path.is_file():
                try:
                    found[kind] = str(json.loads(path.read_bytes())["digest"])
                except (ValueError, KeyError, TypeError, RecursionError):
                    found[kind] = "unreadable"
        return found

    def outside(self) -> Snapshot:
        """All that is not in the work folder."""
        return snapshot(
            self.folder, leave=(self.work, self.folder / "stdout", self.folder / "stderr", self.folder / "tmp")
        )

    def seals(self) -> dict[str, tuple[int, int]]:
        """What tells whether an artifact was made again: inode and time of its manifest."""
        found = {}
        for kind in STAGES.values():
            path = self.work / kind / "manifest.json"
            if path.is_file() and not path.is_symlink():
                about = path.stat()
                found[kind] = (about.st_ino, about.st_mtime_ns)
        return found


class World:
    """The finished and the half work folders, and the digests and contents that every run must give again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished = Place(folder / "finished")
        self.half = Place(folder / "half")
        self._count = 0

    def make(self) -> World:
        """Raises RuntimeError where a stage fails on an undamaged world."""
        _furnish(self.finished)
        done = self.finished.run("run", "recipe.toml", "--work", "work", *COMMON, limit=300)
        if done.rc != 0:
            raise RuntimeError(f"the world could not be made, rc {done.rc}: {done.stderr}")
        self.reference = self.finished.digests()
        self.contents = {kind: content_sums(self.finished.work / kind) for kind in STAGES.values()}
        self.seconds = self._make_half()
        return self

    def copy(self, which: str) -> Place:
        """A place of its own for a case: of "finished", "half" or "bare" (autoencoder alone)."""
        self._count += 1
        place = Place(self.folder / f"case-{self._count}")
        made = self.half if which == "half" else self.finished
        place.folder.mkdir()
        (place.folder / "tmp").mkdir()
        if which == "bare":
            ignore = shutil.ignore_patterns(*(kind for kind in STAGES.values() if kind != "autoencoder"))
            shutil.copytree(made.home, place.home, symlinks=True, ignore=ignore)
        else:
            shutil.copytree(made.home, place.home, symlinks=True)
        return place

    def remove(self, place: Place) -> None:
        for folder, _, _ in os.walk(place.folder):
            os.chmod(folder, 0o755)
        shutil.rmtree(place.folder)

    def _make_half(self) -> dict[str, float]:
        """Seconds of each stage, measured on the way; the half folder has what each of HALVES left when it was killed."""
        shutil.copytree(self.finished.folder, self.half.folder, symlinks=True)
        seconds = {}
        for stage, kind in reversed(STAGES.items()):
            shutil.rmtree(self.half.work / kind)
            began = self.half.run(stage, "-r", "recipe.toml", "--work", "work", *COMMON)
            seconds[stage] = began.seconds
        for stage, path in HALVES.items():
            place = Place(self.folder / f"half-{stage}")
            shutil.copytree(self.finished.folder, place.folder, symlinks=True)
            shutil.rmtree(place.work / STAGES[stage])
            args = (stage, "-r", "recipe.toml", "--work", "work", *COMMON)
            place.run(*args, kill=lambda path=path: die_after_rename(path))  # type: ignore[misc]
            partial = place.work / f"{STAGES[stage]}.partial"
            if not partial.is_dir():
                raise RuntimeError(f"{stage} was not stopped half way")
            shutil.copytree(partial, self.half.work / partial.name)
            shutil.rmtree(self.half.work / STAGES[stage], ignore_errors=True)
            shutil.rmtree(place.folder)
        return seconds


def _furnish(place: Place) -> None:
    """Canaries, pictures and recipe."""
    rng = np.random.default_rng(0)
    for folder in (place.project / "pictures", place.project / "other", place.home / "neighbour", place.folder / "tmp"):
        folder.mkdir(parents=True)
    (place.project / "recipe.toml").write_text(RECIPE)
    for number in range(PICTURES):
        values = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(values).save(place.project / "pictures" / f"p{number:02}.png")
        (place.project / "pictures" / f"p{number:02}.txt").write_text(f"a small thing number {number}")
    (place.home / ".bashrc").write_text("export PATH=$PATH:~/bin\n")
    (place.home / "victim.txt").write_text("the only copy of a thesis\n" * 40)
    (place.home / "neighbour" / "manifest.json").write_text('{"name": "an add-on for a browser", "version": 3}\n')
    (place.home / "neighbour" / "notes.txt").write_text("notes of somebody else\n")
    (place.project / "other" / "plan.json").write_text('{"floors": 3}\n')


def die_after_rename(ending: str) -> None:
    """End this process at the first rename, opening or making of a folder that follows a rename to a name with `ending`."""
    import sys

    seen = []

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if seen and event in ("os.rename", "open", "os.mkdir", "os.remove"):
            os._exit(9)
        if event == "os.rename" and str(args[1]).endswith(ending):
            seen.append(True)

    sys.addaudithook(watch)


def snapshot(root: Path, leave: tuple[Path, ...] = ()) -> Snapshot:
    """Every path below `root`: links are not followed."""
    left, found = {str(path) for path in leave}, {}
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        for item in os.scandir(folder):
            if item.path in left:
                continue
            about = item.stat(follow_symlinks=False)
            content = ""
            if stat.S_ISREG(about.st_mode):
                content = hashlib.sha256(Path(item.path).read_bytes()).hexdigest()
            elif stat.S_ISLNK(about.st_mode):
                content = os.readlink(item.path)
            elif stat.S_ISDIR(about.st_mode):
                waiting.append(item.path)
            size, mtime = (0, 0) if stat.S_ISDIR(about.st_mode) else (about.st_size, about.st_mtime_ns)
            found[os.path.relpath(item.path, root)] = Entry(about.st_mode, size, mtime, content)
    return found


def content_sums(artifact: Path) -> dict[str, str]:
    """SHA-256 of each file that the digest of an artifact covers, read from the disk and not from the manifest."""
    manifest = json.loads((artifact / "manifest.json").read_bytes())
    names = [entry["path"] for entry in manifest["files"] if not entry["volatile"]]
    return {name: hashlib.sha256((artifact / name).read_bytes()).hexdigest() for name in names}


def volatile_files(artifact: Path) -> set[str]:
    """The files for people, which the digest leaves out."""
    manifest = json.loads((artifact / "manifest.json").read_bytes())
    return {entry["path"] for entry in manifest["files"] if entry["volatile"]}
