"""Sealed artifacts on disk: the one at a path, those of a work folder, and where an input lies now."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from stages.artifacts.manifest import MAKERS, InputEntry, Manifest, is_other, read_manifest
from stages.core.errors import ExitCode, TfcliError
from tfcli import render


@dataclass(frozen=True)
class FoundArtifact:
    """A sealed artifact on disk."""

    folder: Path
    manifest: Manifest


def artifacts_at(path: Path) -> list[FoundArtifact]:
    """The artifact at `path`, or those of the work folder `path`, in the order of the pipeline."""
    if not path.exists():
        raise TfcliError(f"{path} does not exist", fix="give an artifact or a work folder", code=ExitCode.USAGE)
    manifest = read_manifest(path)
    if manifest is not None:
        return [FoundArtifact(path, manifest)]
    found = []
    for folder in sorted(path.iterdir()) if path.is_dir() else []:
        # an unfinished artifact is no artifact, even if a kill came between its manifest and its rename
        finished = not folder.name.startswith(".") and not folder.name.endswith(".partial")
        below = read_manifest(folder) if finished else None
        if below is not None:
            found.append(FoundArtifact(folder, below))
    if not found and not partials(path):
        raise nothing_at(path)
    order = list(MAKERS)
    return sorted(found, key=lambda item: (order.index(item.manifest.kind), item.folder.name))


def artifact_around(path: Path) -> Path | None:
    """The artifact that `path` is or is inside, whatever links lead there; one more file would be a stray one."""
    resolved = path.resolve()
    for folder in (resolved, *resolved.parents):
        try:
            if read_manifest(folder) is not None:
                return folder
        except TfcliError:  # a manifest.json of something else
            continue
    return None


def require_output_path(path: Path, name: str = "") -> None:
    """For a file that the user wants written: its folder exists and is not inside an artifact. name: of the option.

    Raises TfcliError (USAGE).
    """
    shown = f"{name} {path}".strip()
    if artifact_around(path.parent) is not None:
        raise TfcliError(f"{shown} is inside an artifact", fix="write it elsewhere", code=ExitCode.USAGE)
    if not path.resolve().parent.is_dir():
        what = f"{shown}: no such folder" if name else f"{path.parent}: no such folder"
        raise TfcliError(what, fix="make it first", code=ExitCode.USAGE)


def partials(path: Path) -> list[str]:
    return sorted(folder.name for folder in path.glob("*.partial")) if path.is_dir() else []


def nothing_at(path: Path) -> TfcliError:
    why = "the folder has no manifest.json, and no folder in it has one"
    return TfcliError(
        f"no artifact at {path}", why=why, fix="give an artifact or a work folder", code=ExitCode.ARTIFACT
    )


def follow(folder: Path, entry: InputEntry) -> tuple[Path, Manifest | None, str]:
    """Where an input lies, what is there now, and "" or what is wrong with it."""
    path = Path(os.path.relpath((folder / entry.path).resolve()))
    try:
        manifest = read_manifest(path)
    except TfcliError as error:
        return path, None, f"cannot be read ({error.why})"
    if manifest is None:
        return path, None, "no longer there"
    if is_other(entry, manifest):
        return path, manifest, f"changed since: digest {render.short(manifest.digest)} now"
    return path, manifest, ""


def and_more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""
