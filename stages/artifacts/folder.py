"""Making an artifact: a `.partial` folder that survives a kill, units of work that are done once, a seal at the end.

    with building(target, stamp, runtime) as build:
        for unit in plan:
            if build.unit(unit) is None:
                ... write files below build.folder ...
                build.finish_unit(unit, facts, files)
        build.seal(content, stats)

Layout while it grows: `<target>.partial/` with `plan.json` (the fingerprint it grows for) and `units/<unit>.json` (units.py).
The seal writes `manifest.json` last and renames the folder into place last. What is deleted on the way: removal.py.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stages.artifacts.checkpoint import BEST, SAVES
from stages.artifacts.form import matcher, matches
from stages.artifacts.kinds import FORMS
from stages.artifacts.lock import Lock, open_lock
from stages.artifacts.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    Stamp,
    make_manifest,
    open_artifact,
    read_manifest,
    write_manifest,
)
from stages.artifacts.removal import (
    PLAN,
    clean_up,
    discard,
    keep_strays,
    own_files,
    refuse_foreign,
    refuse_links,
    remove_files,
    remove_if_bare,
    rename_into_place,
    sweep,
)
from stages.artifacts.units import (
    RECIPE,
    SEALED_UNITS,
    UNITS,
    UnitRecord,
    read_plan,
    read_unit,
    sealed_rows,
    sealed_units,
    unit_records,
    write_unit,
)
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note, Report, silent
from stages.core.files import disk_errors, require_space, sync_folder, sync_up, write_jsonl, write_record
from stages.core.hashing import hash_file
from stages.core.reading import inside, open_plain
from stages.core.runtime import Runtime

_JOIN_SECONDS = 10.0  # how long a part waits for one that begins the folder


class Build:
    """An artifact that is being made. Stages write below `folder` and call `seal` when all is there."""

    def __init__(self, target: Path, stamp: Stamp, lock: Lock | None = None, report: Report = silent) -> None:
        """lock: None in a process next to the one which makes the artifact; it writes only what that one wants."""
        self.target = target
        self.stamp = stamp
        self._lock = lock
        self._report = report
        self.folder = target.with_name(target.name + ".partial")
        self.started = datetime.now(UTC)
        self.sealed: Manifest | None = None
        self._checked: set[str] = set()  # units whose bytes this process has made or looked at

    def unit(self, name: str, *, by_size: bool = False) -> dict[str, Any] | None:
        """The facts of a finished unit, None if it has to be done (again): its files have the bytes that were recorded, which is
        looked at once. by_size: only their sizes, for units that other processes have just made."""
        record = read_unit(self.folder / UNITS / f"{name}.json")
        if record is None:
            return None
        for entry in record.files:
            path = inside(self.folder, entry.path)
            if not path.is_file() or path.stat().st_size != entry.bytes:
                return None
        if not by_size and name not in self._checked:
            if not record.is_whole(self.folder):
                return None
            self._checked.add(name)
        return record.facts

    def finish_unit(self, name: str, record: dict[str, Any], files: list[Path]) -> None:
        """Flush and hash the unit's files, then record that it is done."""
        (self.folder / UNITS).mkdir(exist_ok=True)
        sync_up(files, self.folder)
        entries = [self._entry(path, volatile=False) for path in files]
        write_unit(self.folder, name, record, entries)
        self._checked.add(name)

    @contextmanager
    def claim(self, name: str, *, wait: bool = False) -> Iterator[bool]:
        """False where another process is at work on the unit; True keeps others away from it for the length of the block.

        wait: until nobody is.
        """
        (self.folder / UNITS).mkdir(exist_ok=True)
        with open_lock(self.folder / UNITS / f"{name}.lock") as file:
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

    def remove(self, name: str) -> None:
        """Delete the files of this kind of artifact below a folder inside the growing one; what else is there stays."""
        remove_files(self.folder / name, FORMS[self.stamp.kind].below(name))

    def seal(
        self,
        content: dict[str, Any],
        stats: dict[str, Any],
        volatile: tuple[str, ...] = (),
        files: Iterable[str] | None = None,
    ) -> Manifest:
        """Hash the files, write the manifest last, rename the folder into place. What else is there is moved aside.

        volatile: files outside the digest. files: patterns of those of this artifact, where it may not have all that its kind
        has (kinds.py).
        """
        form = FORMS[self.stamp.kind]
        volatile = (*volatile, RECIPE, SEALED_UNITS)
        sweep(self.folder)  # what a part that was killed left half written
        refuse_links(self.folder)
        own = (*(form.files if files is None else files), RECIPE)
        if any(matches(f"{UNITS}/{path.name}", form.growing) for path in (self.folder / UNITS).glob("*.json")):
            own = (*own, SEALED_UNITS)  # of a seal that was killed
        keep_strays(self.folder, self.target, (*own, *form.growing), self._report)
        units = unit_records(self.folder)
        known = {entry.path: entry for record in units for entry in record.files}
        if units:
            write_jsonl(self.folder / SEALED_UNITS, sealed_rows(units))
        is_own, is_growing = matcher(own), matcher(form.growing)
        entries = []
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            # Plan and units stay until the manifest is there: a kill while hashing must not cost the finished work.
            sealed = is_own(name) and name not in (MANIFEST, PLAN) and not is_growing(name)
            if sealed and path.is_file():
                is_volatile = any(name == item or name.startswith(f"{item}/") for item in volatile)
                entries.append(known.get(name) or self._entry(path, is_volatile))
        sync_up(
            (self.folder / entry.path for entry in entries), self.folder
        )  # what the manifest lists is there whenever it is
        manifest = make_manifest(self.stamp, content, stats, entries, self.started)
        write_manifest(self.folder / MANIFEST, manifest)
        rename_into_place(self.folder, self.target, manifest.kind, self._report)
        self.sealed = manifest
        return manifest

    def _entry(self, path: Path, volatile: bool) -> FileEntry:
        name = path.relative_to(self.folder).as_posix()
        return FileEntry(path=name, bytes=path.stat().st_size, sha256=hash_file(path), volatile=volatile)


@contextmanager
def building(
    target: Path, stamp: Stamp, runtime: Runtime, *, force: bool = False, replace: bool = False
) -> Iterator[Build]:
    """A Build for `target`, resumed if there is a partial one with the same fingerprint, else (or by force) restarted.

    Where the sealed artifact has that fingerprint, the units of it that are whole (and, with runtime.retry_failed, have no
    failures) are taken over.

    Raises TfcliError: USAGE if `target` is something that tfcli did not make, ENVIRONMENT if another process builds it. Where
    the block raises one before anything is made, the partial folder goes again.
    Of a part (`runtime.part`) the folder is shared with the other parts; it claims each unit and seals only if it is the last.
    """
    refuse_foreign(target, stamp.kind, force=force)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with Lock(target, "whole run" if runtime.part.whole else "part") as lock:
        build = Build(target, stamp, lock, runtime.report)
        if runtime.part.whole:
            if not lock.take_alone():
                raise lock.taken()
            _begin(build, runtime, force, replace)
        else:
            _join(build, lock, runtime)
        try:
            yield build
        except TfcliError:
            if runtime.part.whole:
                remove_if_bare(build.folder, {PLAN, RECIPE})
            raise


def _begin(build: Build, runtime: Runtime, force: bool, replace: bool = False) -> None:
    """Resume or start the partial folder. No other process is at work on it. replace: saves with other settings may go."""
    clean_up(build.target, runtime.report)
    if build.folder.is_symlink() or build.folder.is_dir():
        refuse_links(build.folder)
    if force and build.folder.exists():
        discard(build.folder, build.target, runtime.report)
    if _resumable(build):
        sweep(build.folder)
        build.sealed = _sealed(build)
        if build.sealed is not None:
            listed = [entry.path for entry in build.sealed.files]
            keep_strays(build.folder, build.target, [*listed, *FORMS[build.stamp.kind].growing], runtime.report)
            rename_into_place(build.folder, build.target, build.stamp.kind, runtime.report)
        else:
            keep_strays(build.folder, build.target, own_files(build.stamp.kind), runtime.report)
            if runtime.retry_failed:
                _forget_failed(build.folder)
            runtime.report(Note(f"going on with {build.folder}"))
            plan = read_plan(build.folder / PLAN)
            if plan is not None and plan.get("take_over"):
                _take_over(build, runtime)  # a kill may have left some
        return
    if build.folder.exists():
        refused = saves_in_the_way(build.target, build.stamp)
        if refused and not replace:
            raise refused
        discard(build.folder, build.target, runtime.report)
        runtime.report(Note(f"removed {build.folder}: it was started with other settings"))
    with disk_errors(build.folder):
        build.folder.mkdir()
    sync_folder(build.folder.parent)
    plan = {"fingerprint": build.stamp.fingerprint, "facts": build.stamp.fingerprint_inputs(), "take_over": not force}
    write_record(build.folder / PLAN, plan)
    if not force:
        _take_over(build, runtime)


def saves_in_the_way(target: Path, stamp: Stamp) -> TfcliError | None:
    """The refusal (ARTIFACT) of a stage whose growing folder holds saves of a training with other settings; None without such."""
    folder = target.with_name(target.name + ".partial")
    names = [path.name for path in (folder / SAVES).glob("*") if not path.name.endswith(".tmp")]
    saves = sorted(name for name in names if name == BEST or name.startswith("step-"))
    plan = read_plan(folder / PLAN)
    if not saves or (plan is not None and stamp.is_of(plan["fingerprint"], plan["facts"])):
        return None
    changed = f"{stamp.changed(plan['facts'])} changed" if plan else f"{PLAN} cannot be read"
    return TfcliError(
        f"{folder} was started with other settings",
        why=f"{changed}; it holds saves up to {saves[-1]}",
        fix="set it back to resume, give another --work, or add --replace, which deletes the saves and starts again",
        code=ExitCode.ARTIFACT,
    )


def units_to_redo(folder: Path) -> int:
    """How many units of a sealed artifact have failures or files that are not as they were recorded."""
    manifest = read_manifest(folder)
    records = sealed_units(folder, manifest) if manifest else ()
    return sum(not _is_good(folder, record, retry_failed=True) for record in records)


def _is_good(folder: Path, record: UnitRecord, *, retry_failed: bool) -> bool:
    """Whether a unit can be kept: the files have the bytes that were recorded, and (retry_failed) its facts name no
    failures."""
    if retry_failed and record.facts.get("failed"):
        return False
    return record.is_whole(folder)


def _take_over(build: Build, runtime: Runtime) -> None:
    """Copy the good units of the sealed artifact of the same fingerprint that are not there yet."""
    try:
        sealed = read_manifest(build.target)
    except TfcliError:
        return
    if sealed is None or not build.stamp.is_of(sealed.fingerprint, sealed.fingerprint_inputs()):
        return
    kept = count = 0
    for record in sealed_units(build.target, sealed):
        runtime.interrupts.check()
        if build.unit(record.unit) is not None:
            continue
        count += 1
        if not _is_good(build.target, record, retry_failed=runtime.retry_failed):
            continue
        require_space(build.folder, sum(entry.bytes for entry in record.files), "the shards that are kept")
        copies = [_copy(build.target, build.folder, entry) for entry in record.files]
        build.finish_unit(record.unit, record.facts, copies)
        kept += 1
    if count:
        runtime.report(Note(f"{kept} of {count} shards of {build.target} are kept, the others are made again"))


def _copy(source: Path, folder: Path, entry: FileEntry) -> Path:
    copy = inside(folder, entry.path)
    with disk_errors(copy):
        copy.parent.mkdir(parents=True, exist_ok=True)
        with open_plain(inside(source, entry.path), links=False) as old, copy.open("wb") as new:
            shutil.copyfileobj(old, new, 1 << 20)
    return copy


def _forget_failed(folder: Path) -> None:
    """Delete the units with failures, files first: the new one may have others (a picture in another array). One whose record
    is damaged is no unit any more."""
    for path in (folder / UNITS).glob("*.json"):
        record = read_unit(path)
        if record is not None and not record.facts.get("failed"):
            continue
        for entry in record.files if record else ():
            inside(folder, entry.path).unlink(missing_ok=True)
        path.unlink()


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
            if build.folder.is_symlink() or build.folder.is_dir():
                refuse_links(build.folder)
            if build.folder.exists() and not _resumable(build):
                raise TfcliError(
                    f"{build.folder} was begun with other settings",
                    fix="give all parts the same recipe and settings; to restart, delete that folder",
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
    return found if build.stamp.is_of(found.fingerprint, found.fingerprint_inputs()) else None


def _resumable(build: Build) -> bool:
    """Whether the partial folder grows for the wanted fingerprint. Raises TfcliError (USAGE) where it is not of ours."""
    sealed = _sealed(build)
    if sealed is not None:
        return build.stamp.is_of(sealed.fingerprint, sealed.fingerprint_inputs())
    plan = read_plan(build.folder / PLAN)
    return plan is not None and build.stamp.is_of(plan["fingerprint"], plan["facts"])


def _sealed(build: Build) -> Manifest | None:
    """The manifest of a growing folder that a kill left between its seal and its last name."""
    with suppress(TfcliError):
        return read_manifest(build.folder)
    return None
