"""What the tool deletes, and how it knows that it made it. Every deletion of an artifact's files is in this file.

- A sealed artifact that another one replaces: the files that its manifest lists, and what a killed process of ours left half
  written. Anything else in the folder is kept: moved to `NAME.kept-<time>`, and reported.
- A growing folder (`NAME.partial`) that was started with other settings: only if its plan proves that it is ours (it has to
  give its own fingerprint), and never while it holds saves of a training.
- In a growing folder: only files that the form of the kind (kinds.py) names. Anything else is moved to `NAME.kept-<time>`, and
  reported: when the work goes on, before the seal, and before the folder is deleted.
- What a kill left of these two, under names that nobody types (`.NAME.replaced-<16 hex>`), after the same proof.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from stages.artifacts.form import matcher
from stages.artifacts.kinds import FORMS
from stages.artifacts.manifest import MANIFEST, read_manifest
from stages.artifacts.units import RECIPE, SEALED_UNITS, read_plan
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note, Report, Warn
from stages.core.files import disk_errors, sync_folder
from stages.core.reading import inside, read_bounded
from stages.core.text import printable

PLAN = "plan.json"
# What a killed process leaves: our `.name.tmp-pid-hex`, zarr's `name.hex.partial`, safetensors' `.tmpXXXXXX`.
_HALF_WRITTEN = re.compile(r"\..+\.tmp-\d+-[0-9a-f]{8}|.+\.[0-9a-f]{32}\.partial|\.tmp[A-Za-z0-9]{6}")


def rename_into_place(folder: Path, target: Path, kind: str, report: Report) -> None:
    """Swap the finished folder in. A kill between the renames leaves the old one under a hidden name, removed at the next run."""
    for name in FORMS[kind].growing_folders():
        remove_files(folder / name, FORMS[kind].below(name))
    (folder / PLAN).unlink(missing_ok=True)
    sync_folder(folder)
    old = _hidden(target)
    with disk_errors(target):
        if target.is_symlink():  # the user's own choice of a place: the link goes, what it leads to stays
            target.unlink()
        elif target.exists():
            os.replace(target, old)
        os.replace(folder, target)
        sync_folder(target.parent)
    if old.exists():
        remove_artifact(old, target, report)


def remove_artifact(folder: Path, target: Path, report: Report) -> None:
    """Delete the files that the manifest of a replaced artifact lists; what else is in its folder is kept next to `target`."""
    try:
        manifest = read_manifest(folder, check=False)
    except TfcliError:
        manifest = None
    for entry in manifest.files if manifest else []:
        _unlink(folder, entry.path)
    if manifest is not None:
        sweep(folder)
        _unlink(folder, MANIFEST)  # last: what a kill leaves can still be proved to be ours
    _remove_empty(folder)
    if folder.exists():
        kept = _kept(target)
        os.replace(folder, kept)
        report(_kept_warning(target, kept, (path.name for path in kept.iterdir())))


def keep_strays(folder: Path, target: Path, own: Iterable[str], report: Report) -> None:
    """Move the files of a growing folder that are of none of the patterns `own` to a folder next to `target`."""
    is_own = matcher((*own, PLAN, *((MANIFEST,) if looks_like_ours(folder) else ())))
    found = [path for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink()]
    strays = [path for path in found if not is_own(path.relative_to(folder).as_posix())]
    if not strays:
        return
    kept = _kept(target)
    with disk_errors(kept):
        for path in strays:
            moved = kept / path.relative_to(folder)
            moved.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, moved)
            sync_folder(moved.parent)
        sync_folder(kept.parent)
    for parent in {path.parent for path in strays} - {folder}:
        _remove_empty(parent)
    report(_kept_warning(folder, kept, (path.relative_to(folder).as_posix() for path in strays)))


def own_files(kind: str) -> tuple[str, ...]:
    """Patterns of all that may be in a growing folder of a kind, but for the plan and the manifest."""
    form = FORMS[kind]
    return (*form.files, *form.growing, RECIPE, SEALED_UNITS)


def remove_files(folder: Path, patterns: Iterable[str]) -> None:
    """Delete the files of a folder inside a growing one that are of one of the patterns, and that folder where nothing else is
    in it."""
    is_own = matcher(patterns)
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and (is_half_written(path.name) or is_own(name)):
            with suppress(OSError):
                path.unlink()
    _remove_empty(folder)


def discard(folder: Path, target: Path, report: Report) -> None:
    """Delete the growing folder of `target`, whose plan proves that it is ours. It loses its name first: half a folder under that
    name would be nobody's. Raises TfcliError (USAGE) without that proof."""
    empty = not folder.is_symlink() and all(is_half_written(path.name) for path in folder.iterdir())
    plan = read_plan(folder / PLAN)
    if plan is None and not empty:
        what = f"will not delete {folder}"
        why = f"its {PLAN} does not prove that tfcli made it"
        raise TfcliError(what, why=why, fix="move it away, or delete it yourself", code=ExitCode.USAGE)
    if plan is not None:
        sweep(folder)
        kind = str(plan["facts"].get("kind"))
        keep_strays(folder, target, own_files(kind) if kind in FORMS else (), report)
    away = _hidden(folder)
    with disk_errors(folder):
        os.replace(folder, away)
    _discard_hidden(away)


def remove_if_bare(folder: Path, bare: set[str]) -> None:
    """Delete a growing folder in which nothing was made but the files of these names: what was asked for was refused."""
    if folder.is_dir() and {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()} <= bare:
        shutil.rmtree(folder, ignore_errors=True)


def leftovers(target: Path) -> list[Path]:
    """Folders under the names that replaced artifacts and discarded folders of `target` get for the moment of their deletion."""
    name = re.escape(target.name)
    hidden = re.compile(rf"\.{name}(\.partial)?\.replaced-[0-9a-f]{{16}}")
    listing = sorted(target.parent.iterdir()) if target.parent.is_dir() else []
    return [path for path in listing if hidden.fullmatch(path.name) and not path.is_symlink()]


def clean_up(target: Path, report: Report) -> None:
    """Remove what killed processes left of replaced artifacts and discarded folders of `target`. The caller holds its lock."""
    for path in leftovers(target):
        if path.name.startswith(f".{target.name}.partial.replaced-"):
            if not (path / PLAN).exists() or read_plan(path / PLAN) is not None:
                _discard_hidden(path)
        else:
            remove_artifact(path, target, report)
        if not path.exists():
            report(Note(f"removed {path}: left over from an interrupted run"))


def sweep(folder: Path) -> None:
    """Remove the half-written files that a killed process left: ours (`.name.tmp-pid-hex`) and zarr's (`name.hex.partial`)."""
    for path in folder.rglob("*"):
        if is_half_written(path.name) and path.is_file() and not path.is_symlink():
            path.unlink()


def is_half_written(name: str) -> bool:
    return _HALF_WRITTEN.fullmatch(name) is not None


def refuse_foreign(folder: Path, kind: str, *, force: bool = False) -> None:
    """Raise TfcliError (USAGE) for a folder with content that no manifest of `kind` proves to be ours.

    force: a manifest that is damaged is proof enough, if it still looks like one of ours: nothing is lost, as what it does not
    list is kept.
    """
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise TfcliError(f"{folder} is a file", fix="give another --work", code=ExitCode.USAGE)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    names = {name for name in names if not is_half_written(name)}
    if not names:
        return
    why = "it is not empty and has no manifest.json, so tfcli did not make it"
    if MANIFEST in names:
        try:
            manifest = read_manifest(folder, check=not force)
            found = manifest.kind if manifest else ""
        except TfcliError as error:
            if looks_like_ours(folder):
                if force:
                    return
                raise
            found, error_why = "", error.why
            why = f"its manifest.json is not one of tfcli: {error_why}"
        if found == kind:
            return
        if found:
            why = f"it holds {found}, not {kind}"
    raise TfcliError(f"will not write to {folder}", why=why, fix="give another --work", code=ExitCode.USAGE)


def looks_like_ours(folder: Path) -> bool:
    """Whether a manifest that cannot be used may be one of ours that was damaged: it is no JSON any more, or has our keys."""
    try:
        found = json.loads(read_bounded(folder / MANIFEST))
    except OSError:
        return False
    except (ValueError, RecursionError):
        return True
    keys = {"envelope", "kind", "schema_version", "stage_version", "fingerprint", "digest", "provenance"}
    return isinstance(found, dict) and len(keys & found.keys()) > len(keys) // 2


def refuse_links(folder: Path) -> None:
    """Raise TfcliError (ARTIFACT) where a growing folder holds anything but plain files and folders: a write below a link would
    land elsewhere."""
    if folder.is_symlink():
        raise _link(folder, folder)
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as listing:
            entries = list(listing)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False):
                raise _link(folder, Path(entry.path))


def _link(folder: Path, path: Path) -> TfcliError:
    return TfcliError(
        f"will not go on in {folder}",
        why=f"{path} is a symbolic link or another thing that tfcli does not make",
        fix="delete it, or move the folder away",
        code=ExitCode.ARTIFACT,
    )


def _discard_hidden(folder: Path) -> None:
    """The plan goes last, so that what a kill leaves can still be proved to be ours."""
    with disk_errors(folder):
        for path in folder.iterdir():
            if path.name != PLAN:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.rmtree(folder)


def _kept_warning(moved: Path, kept: Path, names: Iterable[str]) -> Warn:
    shown = ", ".join(printable(name) for name in sorted(names)[:4])
    return Warn(f"kept what tfcli did not make in {moved}: {shown}; it is in {kept} now")


def _unlink(folder: Path, name: str) -> None:
    try:
        inside(folder, name).unlink(missing_ok=True)
    except (TfcliError, OSError):  # a link on the way, a folder of that name: kept
        return


def _remove_empty(folder: Path) -> None:
    """Remove the folders below and `folder` itself where nothing is in them."""
    below = [Path(root) for root, _, _ in os.walk(folder, topdown=False)]
    for path in below:
        try:
            path.rmdir()
        except OSError:
            continue


def _hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced-{secrets.token_hex(8)}")


def _kept(target: Path) -> Path:
    """A name next to `target` that is free."""
    base = target.with_name(f"{target.name}.kept-{time.strftime('%Y%m%d-%H%M%S')}")
    number, kept = 1, base
    while os.path.lexists(kept):
        number += 1
        kept = base.with_name(f"{base.name}-{number}")
    return kept
