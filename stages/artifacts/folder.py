"""Making an artifact: a `.partial` folder that survives a kill, units of work that are done once, a seal at the end.

    with building(target, stamp, runtime) as build:
        for unit in plan:
            if build.unit(unit) is None:
                ... write files below build.folder ...
                build.finish_unit(unit, facts, files)
        build.seal(content, stats)

Layout while it grows: `<target>.partial/` with `plan.json` (the fingerprint it grows for) and `units/<unit>.json` (facts
and hashes of a finished unit). The seal writes `manifest.json` last and renames the folder into place last; the records of
the units stay in `units.jsonl`, so that a damaged artifact is mended unit by unit.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stages.artifacts.lock import Lock
from stages.artifacts.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    Stamp,
    make_manifest,
    open_artifact,
    read_manifest,
    what_changed,
)
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note
from stages.core.files import disk_errors, read_jsonl, require_space, sync_folder, sync_up, write_json, write_jsonl
from stages.core.hashing import hash_file
from stages.core.runtime import Runtime

PLAN = "plan.json"
UNITS = "units"
SAVES = "saves"  # of a stage that takes days: never thrown away without --force
SEALED_UNITS = "units.jsonl"
RECIPE = "recipe.json"  # the whole resolved recipe, neutral keys included: not part of the digest
# What a killed process leaves: our `.name.tmp-pid-hex`, zarr's `name.hex.partial`.
_HALF_WRITTEN = re.compile(r"\..+\.tmp-\d+-[0-9a-f]{8}|.+\.[0-9a-f]{32}\.partial")
_JOIN_SECONDS = 10.0  # how long a part waits for one that begins the folder


class Build:
    """An artifact that is being made. Stages write below `folder` and call `seal` when all is there."""

    def __init__(self, target: Path, stamp: Stamp, lock: Lock | None = None) -> None:
        """lock: None in a process that works beside the one which makes the artifact, and writes only what that one wants."""
        self.target = target
        self.stamp = stamp
        self._lock = lock
        self.folder = target.with_name(target.name + ".partial")
        self.started = datetime.now(UTC)
        self.sealed: Manifest | None = None

    def unit(self, name: str) -> dict[str, Any] | None:
        """The facts of a finished unit, None if it has to be done (again): its files are checked by size."""
        try:
            record = json.loads((self.folder / UNITS / f"{name}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        for entry in record["files"]:
            path = self.folder / entry["path"]
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                return None
        facts: dict[str, Any] = record["facts"]
        return facts

    def finish_unit(self, name: str, facts: dict[str, Any], files: list[Path]) -> None:
        """Flush and hash the unit's files, then record that it is done."""
        (self.folder / UNITS).mkdir(exist_ok=True)
        sync_up(files, self.folder)
        entries = [self._entry(path, volatile=False) for path in files]
        write_json(
            self.folder / UNITS / f"{name}.json", {"facts": facts, "files": [entry.model_dump() for entry in entries]}
        )

    @contextmanager
    def claim(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """False where another process is at work on the unit; True keeps others away from it for the length of the block.

        wait: until nobody is.
        """
        (self.folder / UNITS).mkdir(exist_ok=True)
        with (self.folder / UNITS / f"{name}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
            else:
                yield True

    def may_seal(self) -> bool:
        """Whether no other process works on this artifact any more: of several parts, true for the last one to ask."""
        assert self._lock is not None
        return self._lock.alone or self._lock.take_alone()

    def seal(self, content: dict[str, Any], stats: dict[str, Any], volatile: tuple[str, ...] = ()) -> Manifest:
        """Hash every file, write the manifest last, rename the folder into place. `volatile`: files outside the digest."""
        volatile = (*volatile, RECIPE, SEALED_UNITS)
        _sweep(self.folder)  # what a part that was killed left half written
        known = self._unit_entries()
        records = [
            {"unit": path.stem, **json.loads(path.read_bytes())}
            for path in sorted((self.folder / UNITS).glob("*.json"))
        ]
        if records:
            write_jsonl(self.folder / SEALED_UNITS, records)
        files = []
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            # Plan and units stay until the manifest is there: a kill while hashing must not cost the finished work.
            if path.is_file() and name not in (MANIFEST, PLAN) and not name.startswith(f"{UNITS}/"):
                is_volatile = any(name == item or name.startswith(f"{item}/") for item in volatile)
                files.append(known.get(name) or self._entry(path, is_volatile))
        sync_up(
            (self.folder / entry.path for entry in files), self.folder
        )  # what the manifest lists is there whenever it is
        manifest = make_manifest(self.stamp, content, stats, files, self.started)
        write_json(self.folder / MANIFEST, manifest.model_dump())
        _put_in_place(self.folder, self.target)
        self.sealed = manifest
        return manifest

    def _entry(self, path: Path, volatile: bool) -> FileEntry:
        name = path.relative_to(self.folder).as_posix()
        return FileEntry(path=name, bytes=path.stat().st_size, sha256=hash_file(path), volatile=volatile)

    def _unit_entries(self) -> dict[str, FileEntry]:
        found = {}
        for path in (self.folder / UNITS).glob("*.json"):
            for raw in json.loads(path.read_bytes())["files"]:
                found[raw["path"]] = FileEntry.model_validate(raw)
        return found


@contextmanager
def building(target: Path, stamp: Stamp, runtime: Runtime, *, force: bool = False) -> Iterator[Build]:
    """A Build for `target`, resumed if a partial one with the same fingerprint lies there, else (or by force) begun anew.

    Where the sealed artifact has that fingerprint, the units of it that are whole (and, with runtime.retry_failed, have no
    failures) are taken over.

    Raises TfcliError: USAGE if `target` is something that tfcli did not make, ENVIRONMENT if another process builds it. Where
    the block raises one before anything is made, the partial folder goes again.
    Of a part (`runtime.part`) the folder is shared with the other parts; it claims each unit and seals only if it is the last.
    """
    _refuse_foreign(target)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with Lock(target, "whole run" if runtime.part.whole else "part") as lock:
        build = Build(target, stamp, lock)
        if runtime.part.whole:
            if not lock.take_alone():
                raise lock.taken()
            _begin(build, runtime, force)
        else:
            _join(build, lock, runtime)
        try:
            yield build
        except TfcliError:
            if runtime.part.whole:
                _forget_if_bare(build.folder)
            raise


def _begin(build: Build, runtime: Runtime, force: bool) -> None:
    """Resume or begin the partial folder. No other process is at work on it."""
    _finish_interrupted_swap(build.target, runtime)
    _refuse_foreign(build.folder, PLAN)
    if force and build.folder.exists():
        _discard(build.folder)
    if _resumable(build):
        if (build.folder / MANIFEST).exists():
            build.sealed = read_manifest(build.folder)
            _put_in_place(build.folder, build.target)
        else:
            _sweep(build.folder)
            if runtime.retry_failed:
                _forget_failed(build.folder)
            runtime.report(Note(f"going on with {build.folder}"))
            if json.loads((build.folder / PLAN).read_bytes()).get("take_over"):
                _take_over(build, runtime)  # a kill may have left some
        return
    if build.folder.exists():
        _keep_saves(build)
        _discard(build.folder)
        runtime.report(Note(f"removed {build.folder}: it was begun with other settings"))
    with disk_errors(build.folder):
        build.folder.mkdir()
    sync_folder(build.folder.parent)
    plan = {"fingerprint": build.stamp.fingerprint, "facts": build.stamp.facts(), "take_over": not force}
    write_json(build.folder / PLAN, plan)
    if not force:
        _take_over(build, runtime)


def _forget_if_bare(folder: Path) -> None:
    """Delete a partial folder in which nothing was made: what was asked for was refused."""
    if folder.is_dir() and {path.name for path in folder.rglob("*") if not path.is_dir()} <= {PLAN, RECIPE}:
        shutil.rmtree(folder, ignore_errors=True)


def _keep_saves(build: Build) -> None:
    """Raise TfcliError (ARTIFACT) where the folder holds saves of a long computation: --force alone throws those away."""
    saves = sorted(path.name for path in (build.folder / SAVES).glob("*") if not path.name.endswith(".tmp"))
    if not saves:
        return
    try:
        facts = json.loads((build.folder / PLAN).read_bytes())["facts"]
        changed = f"{what_changed(facts, build.stamp.facts())} changed"
    except (OSError, ValueError, KeyError, TypeError):
        changed = f"{PLAN} cannot be read"
    raise TfcliError(
        f"{build.folder} was begun with other settings",
        why=f"{changed}; it holds saves up to {saves[-1]}",
        fix="set it back to go on, or begin anew with --force, which deletes them",
        code=ExitCode.ARTIFACT,
    )


def units_to_redo(folder: Path) -> int:
    """How many units of a sealed artifact have failures or files that are not as they were recorded."""
    return sum(not _is_good(folder, record, retry_failed=True) for record in _sealed_units(folder))


def _sealed_units(folder: Path) -> Iterator[dict[str, Any]]:
    if (folder / SEALED_UNITS).exists():
        yield from read_jsonl(folder / SEALED_UNITS)


def _is_good(folder: Path, record: dict[str, Any], *, retry_failed: bool) -> bool:
    """Whether a unit can be kept: the files have the bytes that were recorded, and (retry_failed) its facts name no
    failures."""
    if retry_failed and record["facts"].get("failed"):
        return False
    return all(_is_whole(folder, FileEntry.model_validate(entry)) for entry in record["files"])


def _take_over(build: Build, runtime: Runtime) -> None:
    """Copy the good units of the sealed artifact of the same fingerprint that are not there yet."""
    try:
        sealed = read_manifest(build.target)
    except TfcliError:
        return
    if sealed is None or sealed.fingerprint != build.stamp.fingerprint:
        return
    kept = count = 0
    for record in _sealed_units(build.target):
        runtime.interrupts.check()
        if build.unit(record["unit"]) is not None:
            continue
        count += 1
        if not _is_good(build.target, record, retry_failed=runtime.retry_failed):
            continue
        copies = [build.folder / entry["path"] for entry in record["files"]]
        require_space(build.folder, sum(entry["bytes"] for entry in record["files"]), "the shards that are kept")
        for entry, copy in zip(record["files"], copies, strict=True):
            with disk_errors(copy):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(build.target / entry["path"], copy)
        build.finish_unit(record["unit"], record["facts"], copies)
        kept += 1
    if count:
        runtime.report(Note(f"{kept} of {count} shards of {build.target} are kept, the others are made again"))


def _forget_failed(folder: Path) -> None:
    """Delete the units with failures, files first: the new one may have others (a picture in another array)."""
    for path in (folder / UNITS).glob("*.json"):
        record = json.loads(path.read_bytes())
        if record["facts"].get("failed"):
            for entry in record["files"]:
                (folder / entry["path"]).unlink(missing_ok=True)
            path.unlink()


def _is_whole(folder: Path, entry: FileEntry) -> bool:
    path = folder / entry.path
    return path.is_file() and path.stat().st_size == entry.bytes and hash_file(path) == entry.sha256


def _discard(folder: Path) -> None:
    """Delete a partial folder. It loses its name first: half a folder under that name would be nobody's."""
    for left in folder.parent.glob(f"{folder.name}.stale-*"):
        shutil.rmtree(left, ignore_errors=True)
    away = folder.with_name(f"{folder.name}.stale-{os.getpid()}")
    os.replace(folder, away)
    shutil.rmtree(away)


def _join(build: Build, lock: Lock, runtime: Runtime) -> None:
    """Begin the partial folder, or join the parts that are at work on it.

    Raises TfcliError (ENVIRONMENT) where a whole run holds it, or where it was begun with other settings: the work of
    other parts is never thrown away.
    """
    deadline = time.monotonic() + _JOIN_SECONDS
    while True:
        alone = lock.take_alone()
        build.sealed = _finished(build) if alone else None  # since the caller looked
        if build.sealed is not None:
            return
        if alone or lock.share():
            if build.folder.exists() and not _resumable(build):
                raise TfcliError(
                    f"{build.folder} was begun with other settings",
                    fix="give all parts the same recipe and settings; to begin anew, delete that folder",
                    code=ExitCode.ENVIRONMENT,
                )
            if alone:
                _begin(build, runtime, force=False)
                if build.sealed is not None or lock.share():
                    return
            elif build.folder.exists():
                runtime.report(Note(f"joining the work on {build.folder}"))
                return
            # else it was sealed a moment ago
        runtime.interrupts.check()
        if time.monotonic() > deadline and lock.holder().startswith("whole"):
            raise lock.taken()
        time.sleep(0.05)


def _finished(build: Build) -> Manifest | None:
    """The manifest of the artifact if it is there, whole, and the one that is wanted."""
    try:
        found = open_artifact(build.target, build.stamp.kind)
    except TfcliError:
        return None
    return found if found.fingerprint == build.stamp.fingerprint else None


def _resumable(build: Build) -> bool:
    try:
        sealed = read_manifest(build.folder)
        if sealed is not None:
            return sealed.fingerprint == build.stamp.fingerprint
        plan = json.loads((build.folder / PLAN).read_bytes())
    except (FileNotFoundError, ValueError, TfcliError):
        return False
    return isinstance(plan, dict) and plan.get("fingerprint") == build.stamp.fingerprint


def _put_in_place(folder: Path, target: Path) -> None:
    """Swap the finished folder in. A kill between the renames leaves the old one under `.old-`, cleaned at the next run."""
    shutil.rmtree(folder / UNITS, ignore_errors=True)
    (folder / PLAN).unlink(missing_ok=True)
    sync_folder(folder)
    old = target.with_name(f"{target.name}.old-{os.getpid()}")
    if target.exists():
        os.replace(target, old)
    os.replace(folder, target)
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _finish_interrupted_swap(target: Path, runtime: Runtime) -> None:
    for path in target.parent.glob(f"{target.name}.old-*"):
        if re.fullmatch(re.escape(target.name) + r"\.old-\d+", path.name) and (path / MANIFEST).exists():
            shutil.rmtree(path, ignore_errors=True)
            runtime.report(Note(f"removed {path}: left over from an interrupted run"))


def _sweep(folder: Path) -> None:
    """Remove the half-written files that a killed process left: ours (`.name.tmp-pid-hex`) and zarr's (`name.hex.partial`)."""
    for path in folder.rglob("*"):
        if _HALF_WRITTEN.fullmatch(path.name) and path.is_file():
            path.unlink()


def _refuse_foreign(folder: Path, *marks: str) -> None:
    """Raise TfcliError (USAGE) for a folder with content but without a manifest (or another mark) of ours."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    names = {name for name in names if not _HALF_WRITTEN.fullmatch(name)}
    if names and not names & {MANIFEST, *marks}:
        why = "it is not empty and has no manifest.json, so tfcli did not make it"
        raise TfcliError(f"will not write to {folder}", why=why, fix="give another --work", code=ExitCode.USAGE)
    if folder.exists() and not folder.is_dir():
        raise TfcliError(f"{folder} is a file", fix="give another --work", code=ExitCode.USAGE)
