"""Files of somebody else's in a folder that grows: they are kept, named, and change nothing of what is made."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from stages.artifacts.form import matches
from stages.artifacts.removal import own_files
from tests.fuzz.child import Kill, Outcome
from tests.fuzz.kills import EVENTS, WRITES
from tests.fuzz.rules import Case, stage
from tests.fuzz.steps import Step
from tests.fuzz.world import HALVES, STAGES, Place, World

NAMES = {  # some are like those of our files; "": in any folder
    "": ("notes.txt", ".DS_Store", "deep/er/notes.txt", "mine.safetensors", "units/mine.json"),
    "vae": ("model/notes.txt", "model/config.json~", "state/notes.txt", "state/step-1.safetensors.old"),
    "encode": ("arrays/mine.bin", "documents/99999.jsonl", "documents/copy.jsonl", "arrays/8x8/c/99/0/0/0/0"),
    "tokenize": ("captions.jsonl", "errors.jsonl", "arrays/ids/notes.txt", "arrays/mine/zarr.json", "units.jsonl"),
    "pack": ("late/ids/zarr.json", "train/notes.txt", "train/ids/notes.txt", "heldout/ids/c/1", "units.jsonl"),
    "train": (
        "saves/notes.txt",
        "saves/step-00000002/notes.txt",
        "saves/mine/state.json",
        "shard-00001-model-00001-of-00001.safetensors",
        "previews/mine.png",
    ),
    "sample": ("images/mine.png", "images/prompts-099-0.png", "images/prompts-000-0.gif"),
    "eval": ("mistakes.txt", "scores.json.bak"),
}
_PLANTED = b"planted\n"  # on stderr
_CHANGES = {"vae": "vae.steps=5", "encode": "encode.check_pictures=3", "train": "train.steps=5"}


def plant(partial: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(data)
    os.write(2, _PLANTED)


def at_event(number: int, kind: str, files: dict[str, bytes], *, end: bool = False) -> Kill:
    """Write files into the growing folder at the number-th file operation once its plan is there; `end`: then end it."""

    def begin() -> None:
        seen, partial = 0, Path("work") / f"{kind}.partial"

        def watch(event: str, args: tuple[Any, ...]) -> None:
            nonlocal seen
            if (
                seen >= number
                or event not in WRITES
                or "work" not in str(args[0])
                or not (partial / "plan.json").is_file()
            ):
                return
            seen += 1
            if seen == number:
                plant(partial, files)
                if end:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)

    return begin


def at_seal(files: dict[str, bytes]) -> Kill:
    """Write files into the growing folder when all is made and nothing is sealed, and end the process."""

    def begin() -> None:
        from stages.artifacts.folder import Build

        def seal(self: Any, *_: Any, **__: Any) -> None:
            plant(self.folder, files)
            os.kill(os.getpid(), signal.SIGKILL)

        Build.seal = seal  # type: ignore[assignment, method-assign]

    return begin


def stray(_: World, rng: random.Random, seed: int, number: int) -> Case:
    """A file appears in a growing folder at any moment of a stage that runs on or is killed then: the stage, or the same once
    more, ends with 0, and makes what it makes without."""
    name = rng.choice(list(STAGES))
    path = rng.choice([*NAMES[""], *NAMES[name]])
    files = {path: f"only copy of the notes of {number}\n".encode()}
    event, end = rng.choice([1, rng.randint(1, EVENTS[name] // 2)]), rng.random() < 0.5
    kills = {0: at_event(event, STAGES[name], files, end=end)}
    about = f"{path} written at file operation {event}" + (", then kill -9" if end else "")

    def kept(place: Place, outcomes: list[Outcome]) -> str | None:
        codes = [outcome.rc for outcome in outcomes]
        if codes not in ([0, 0], [-signal.SIGKILL, 0]):
            return f"the stage ended with {codes}"
        return _lost(place, STAGES[name], files) if _PLANTED.decode() in outcomes[0].stderr else None

    steps = [Step("delete", f"work/{STAGES[name]}"), Step("delete", f"work/{STAGES[name]}.partial")]
    return Case("stray", seed, number, steps, [stage(name), stage(name)], kills=kills, check=kept, about=about)


def _lost(place: Place, kind: str, files: dict[str, bytes]) -> str | None:
    """The first file that is not there any more or is in the artifact's manifest."""
    there = {path.read_bytes() for path in place.work.rglob("*") if path.is_file() and not path.is_symlink()}
    manifest = place.work / kind / "manifest.json"
    listed = [entry["path"] for entry in json.loads(manifest.read_bytes())["files"]] if manifest.is_file() else []
    for name, data in files.items():
        if data not in there:
            return f"{kind}: {name} is gone"
        if name in listed:
            return f"{kind}: {name} was sealed"
    return None


def each_stage(world: World) -> list[str]:
    """What goes wrong where files appear in each growing folder: at the start, before the seal, and before it is discarded."""
    found = []
    for name, kind in STAGES.items():
        names = [*NAMES[""], *NAMES[name]]
        files = {path: f"{kind} {path}".encode() for path in names}
        for moment, kill in {"start": at_event(1, kind, files), "seal": at_seal(files)}.items():
            place = world.copy("finished")
            Step("delete", f"work/{kind}").apply(place)
            outcomes = [place.run(*stage(name), kill=kill)]
            if moment == "seal":
                outcomes.append(place.run(*stage(name)))
            found += _faults(world, place, kind, files, outcomes, f"{kind}, {moment}")
            world.remove(place)
    for name in HALVES:
        kind = STAGES[name]
        names = [
            path for path in [*NAMES[""], *NAMES[name]] if not matches(path, own_files(kind))
        ]  # as there is no seal
        files = {path: f"{kind} {path}".encode() for path in names}
        place = world.copy("half")
        plant(place.work / f"{kind}.partial", files)
        for later in [each for each in HALVES if list(STAGES).index(each) < list(STAGES).index(name)]:
            place.run(*stage(later))
        outcome = place.run(*stage(name, "--set", _CHANGES[name], "--replace"))
        lost = _lost(place, kind, files)
        found += [f"{kind}, discarded: rc {outcome.rc}, {lost}: {outcome.stderr}"] if outcome.rc or lost else []
        world.remove(place)
    return found


def _faults(
    world: World, place: Place, kind: str, files: dict[str, bytes], outcomes: list[Outcome], where: str
) -> list[str]:
    last, found = outcomes[-1], []
    if last.rc != 0 or _PLANTED.decode() not in outcomes[0].stderr:
        found.append(f"{where}: rc {last.rc}: {last.stderr}")
    if place.digests().get(kind) != world.reference[kind]:
        found.append(f"{where}: another digest")
    if lost := _lost(place, kind, files):
        found.append(f"{where}: {lost}")
    if "kept what tfcli did not make" not in last.stderr:
        found.append(f"{where}: nothing said of it: {last.stderr}")
    return found
