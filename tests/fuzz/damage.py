"""Damage to what lies in a work folder: bits, ends, swaps, links, names that lead elsewhere, files of the user's own."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.fuzz.rules import Case, stage
from tests.fuzz.steps import Step
from tests.fuzz.world import HALVES, READERS, STAGES, Place, World

MAKER = {kind: name for name, kind in STAGES.items()}
HOSTILE = (
    "../../victim.txt",
    "../../../victim.txt",
    "../../../../victim.txt",
    "HOME/victim.txt",
    "d/../../../../victim.txt",
    "/dev/zero",
    "a\x00b",
    "x" * 5000,
    "",
    ".",
    "..",
    "con/\ud800",
)
WRONG = (None, -1, 0, 10**9, 10**40, 1.5, "", [], {}, True, [None], {"a": 1})


def files_of(world: World, which: str) -> list[str]:
    """Paths of all files of a work folder, relative to the project; the half folder gives those of half-done stages."""
    place = world.half if which == "half" else world.finished
    found = [path.relative_to(place.project).as_posix() for path in sorted(place.work.rglob("*")) if path.is_file()]
    return [name for name in found if which != "half" or ".partial/" in name]


def commands_after(rng: random.Random, path: str) -> tuple[list[Step], list[list[str]]]:
    """What reads `path` next: steps that take away what was made from it, and one command or two."""
    folder = path.split("/")[1]
    if folder.endswith(".partial"):
        name = MAKER[folder.removesuffix(".partial")]
        before = [
            stage(each) for each in HALVES if list(STAGES).index(each) < list(STAGES).index(name)
        ]  # what it reads is half done too
        return [], [*before, stage(name, *(["--retry-failed"] if name == "encode" and rng.random() < 0.4 else []))]
    if folder not in MAKER:  # a lock, the hashes of the source
        return [], [rng.choice([stage("run"), stage("pack", "--force"), stage("encode")])]
    way = rng.random()
    if way < 0.15:
        return [], [["verify", rng.choice(["work", f"work/{folder}"])]]
    if way < 0.3:
        return [], [stage("run")]
    if way < 0.4:
        return [], [stage(MAKER[folder], *(["--retry-failed"] if folder == "latents" else []))]
    if way < 0.5:
        return [], [stage(MAKER[folder], "--force")]
    if way < 0.54:
        return [], [[rng.choice(["inspect", "lineage"]), f"work/{folder}"]]
    reader = rng.choice(READERS[folder])
    if folder == "latents" and "/arrays/" in path and rng.random() < 0.7:
        reader = "train"  # the only stage that reads their rows
    made = STAGES[reader]
    if made == folder or way > 0.9:
        return [], [stage(reader, "--force")]
    return [Step("delete", f"work/{made}")], [stage(reader)]


def _weighted(rng: random.Random, files: list[str]) -> str:
    """Folders alike, whatever their number of files."""
    folders = sorted({name.split("/")[1] for name in files})
    folder = rng.choice(folders)
    return rng.choice([name for name in files if name.split("/")[1] == folder])


def _world(rng: random.Random) -> str:
    return "half" if rng.random() < 0.3 else "finished"


def _size(world: World, which: str, path: str) -> int:
    return ((world.half if which == "half" else world.finished).project / path).stat().st_size


def flip(world: World, rng: random.Random, seed: int, number: int) -> Case:
    """One bit of one file."""
    which = _world(rng)
    path = _weighted(rng, [name for name in files_of(world, which) if _size(world, which, name)])
    steps, commands = commands_after(rng, path)
    return Case(
        "flip",
        seed,
        number,
        [Step("flip", path, rng.randrange(8 * _size(world, which, path))), *steps],
        commands,
        which,
    )


def cut(world: World, rng: random.Random, seed: int, number: int) -> Case:
    """A file that ends early, or is empty."""
    which = _world(rng)
    path = _weighted(rng, [name for name in files_of(world, which) if _size(world, which, name)])
    size = _size(world, which, path)
    steps, commands = commands_after(rng, path)
    length = rng.choice([0, size - 1, rng.randrange(size), size + rng.choice([1, 4096])])
    return Case("cut", seed, number, [Step("cut", path, length), *steps], commands, which)


def swap(world: World, rng: random.Random, seed: int, number: int) -> Case:
    """Two files change places: of the same length if there are such, else of the same kind."""
    which = _world(rng)
    files = files_of(world, which)
    sizes = {name: _size(world, which, name) for name in files}
    path = _weighted(rng, files)
    same_kind = [name for name in files if name != path and Path(name).suffix == Path(path).suffix]
    other = rng.choice(same_kind or files)
    groups: dict[tuple[str, int], list[str]] = {}
    for name in files:
        groups.setdefault((name.split("/")[1], sizes[name]), []).append(name)
    alike: dict[str, list[list[str]]] = {}  # by folder: folders alike, whatever their number of files
    for (folder, size), group in sorted(groups.items()):
        if size and len(group) > 1:
            alike.setdefault(folder, []).append(group)
    if alike and rng.random() < 0.6:
        path, other = rng.sample(rng.choice(rng.choice(list(alike.values()))), 2)
    steps, commands = commands_after(rng, rng.choice([path, other]))
    return Case("swap", seed, number, [Step("swap", path, other), *steps], commands, which)


def link(world: World, rng: random.Random, seed: int, number: int) -> Case:
    """A file or a folder becomes a link, a pipe, a folder."""
    which = _world(rng)
    path = _weighted(rng, files_of(world, which))
    steps, commands = commands_after(rng, path)
    if rng.random() < 0.25:
        path = str(Path(path).parent) if Path(path).parent.name != "work" else path
    if rng.random() < 0.15:
        name, kind = rng.choice(list(STAGES.items()))
        path = rng.choice(["work/source-hashes.json", *[f"work/.{kind}.lock"] * 3])
        steps, commands = [], [stage(name, "--force")]
    targets = [
        "HOME/victim.txt",
        "/dev/zero",
        "/dev/null",
        "HOME/neighbour",
        "nowhere",
        "HOME/new-file",
        ".",
        "/proc/self/mem",
    ]
    kind = rng.choice(["link"] * 6 + ["fifo", "folder"])
    damage = Step(kind, path, rng.choice(targets) if kind == "link" else None)
    return Case("link", seed, number, [damage, *steps], commands, which, limit=25)


def delete(world: World, rng: random.Random, seed: int, number: int) -> Case:
    """One to three files or folders are gone, or may not be read."""
    which = _world(rng)
    files = files_of(world, which)
    gone = [_weighted(rng, files) for _ in range(rng.choice([1, 1, 2, 3]))]
    steps, commands = commands_after(rng, gone[0])
    if rng.random() < 0.25:
        gone[0] = str(Path(gone[0]).parent)
    gone = [path for path in gone if path not in ("work", "work/autoencoder", "work/checkpoint")]
    return Case("delete", seed, number, [*(Step("delete", path) for path in gone), *steps], commands, which)


def names(world: World, rng: random.Random, seed: int, number: int) -> Case:
    """A value of a record becomes a name that leads elsewhere, or something else than it was."""
    which = _world(rng)
    place = world.half if which == "half" else world.finished
    records = [
        name for name in files_of(world, which) if name.endswith((".json", ".jsonl")) and _size(world, which, name)
    ]
    records = [name for name in records if not name.endswith("recipe.json")] or records
    path = _weighted(rng, records)
    keys, old = _a_value(rng, place, path)
    value: Any = rng.choice(HOSTILE) if isinstance(old, str) or rng.random() < 0.3 else rng.choice(WRONG)
    steps, commands = commands_after(rng, path)
    reseal = rng.random() < 0.7
    # whoever makes the sums right has made another artifact: its results are its own
    case = Case(
        "names", seed, number, [Step("edit", path, (keys, value, reseal)), *steps], commands, which, digests=not reseal
    )
    if rng.random() < 0.3:
        folder = "/".join(path.split("/")[:2])
        case.steps.insert(0, Step("link", f"{folder}/d", "HOME/neighbour"))
    return case


def _a_value(rng: random.Random, place: Place, path: str) -> tuple[list[Any], Any]:
    """Keys that lead to a random value; for JSONL the number of the line comes first."""
    text = (place.project / path).read_text()
    keys: list[Any] = []
    lines = [line for line in text.split("\n") if line] if path.endswith(".jsonl") else [text]
    if path.endswith(".jsonl"):
        keys.append(rng.randrange(len(lines)))
    tree = json.loads(lines[keys[0] if keys else 0])
    while isinstance(tree, dict | list) and tree and (rng.random() < 0.9 or not isinstance(keys[-1:], list)):
        key = rng.choice(sorted(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        if isinstance(tree, dict) and "files" in tree and rng.random() < 0.4:
            key = "files"
        keys.append(key)
        tree = tree[key]
    if not keys or (path.endswith(".jsonl") and len(keys) == 1):
        keys.append(rng.choice(sorted(json.loads(lines[0]))))
    return keys, tree


def foreign(_: World, rng: random.Random, seed: int, number: int) -> Case:
    """Files of the user's own in and next to artifacts: whatever runs, their bytes stay somewhere below the work folder."""
    kind = rng.choice(list(MAKER))
    own = f"only copy of the notes of {number}\n".encode()
    name = rng.choice(
        [
            "notes.txt",
            "arrays/mine.bin",
            ".hidden",
            "images/mine.png",
            "saves/mine.txt",
            "units/mine.json",
            "manifest.old",
        ]
    )
    steps = [Step("write", f"work/{kind}/{name}", data=own)]
    around = rng.choice(["", "old", "partial", "foreign", "stale", "lock"])
    if around == "old":
        steps = [
            Step("copy", f"work/{kind}", f"work/{kind}.old-1"),
            Step("write", f"work/{kind}.old-1/mine.txt", data=own),
        ]
    elif around == "stale":
        steps = [Step("write", f"work/{kind}.partial.stale-1/mine.txt", data=own)]
    elif around == "partial":
        steps = [
            Step("write", f"work/{kind}.partial/mine.txt", data=own),
            Step("write", f"work/{kind}.partial/plan.json", data=b'{"floors": 3}'),
        ]
    elif around == "foreign":
        steps = [
            Step("delete", f"work/{kind}"),
            Step("write", f"work/{kind}/manifest.json", data=b'{"name": "x", "version": 3}'),
            steps[0],
        ]
    elif around == "lock":
        steps = [Step("write", f"work/.{kind}.lock", data=own)]
    changes = {
        "vae": "vae.steps=5",
        "encode": "encode.check_pictures=3",
        "tokenize": "tokenize.tokenizer.vocab_size=310",
        "pack": "pack.row_length=80",
        "train": "train.steps=5",
        "sample": "sample.free=2",
        "eval": "eval.free=2",
    }
    more = rng.choice(
        [
            [],
            ["--force"],
            ["--set", changes[MAKER[kind]]],
            ["--set", changes[MAKER[kind]], "--replace"],
            ["--force", "--set", changes[MAKER[kind]]],
        ]
    )
    commands = [stage(MAKER[kind], *more)]

    def kept(place: Place, _: object) -> str | None:
        for path in place.work.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.read_bytes() == own:
                return None
        return f"a file of the user's own is gone: {steps[-1].path}"

    return Case("foreign", seed, number, steps, commands, digests=False, check=kept)
