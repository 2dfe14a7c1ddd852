"""verify, lineage: whether an artifact is whole, and what it was made from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.tree import Tree

from stages.artifacts.manifest import MAKERS, MANIFEST, read_manifest
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Progress, Report, Warn
from stages.core.hashing import hash_file, hash_value
from stages.core.interrupts import Interrupts, watch_signals
from tfcli import options, render
from tfcli.commands.found import FoundArtifact, and_more, artifacts_at, follow, nothing_at
from tfcli.commands.inspection import inspect

PANEL = "Artifacts"


def add_artifacts(app: typer.Typer) -> None:
    """Mount the commands."""
    for name, command in (("inspect", inspect), ("verify", verify), ("lineage", lineage)):
        app.command(name, rich_help_panel=PANEL)(command)


def verify(
    path: options.ArtifactArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Also check every artifact that it was made from.")] = False,
    sha256sums: Annotated[
        bool, typer.Option("--sha256sums", help="Print the list of sums for 'sha256sum -c' instead of checking.")
    ] = False,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    _debug: options.DebugOption = False,
) -> None:
    """Read every file of an artifact again and compare it with the manifest. Damaged files are named, with exit code 4.

    \b
    Examples: tfcli verify work/smoke
              tfcli verify work/smoke/checkpoint --deep
              (cd work/smoke/latents; tfcli verify . --sha256sums | sha256sum -c)
    """
    if sha256sums and json:
        raise TfcliError("--sha256sums and --json exclude each other", fix="leave one of them out", code=ExitCode.USAGE)
    found = artifacts_at(path)
    if not found:
        raise nothing_at(path)
    if deep:
        found = _with_inputs(found)
    if sha256sums:
        root = path.resolve()
        for item in found:
            for entry in item.manifest.files:
                name = os.path.relpath(item.folder.resolve() / entry.path, root)
                render.show_text(sum_line(entry.sha256, name))
        return
    with watch_signals() as interrupts, render.Reporter(quiet=quiet) as report:
        damaged = [problem for item in found for problem in _damage(item, report, interrupts)]
    if json:
        render.show_json(
            {
                "path": str(path),
                "ok": not damaged,
                "artifacts": [str(item.folder) for item in found],
                "damaged": damaged,
            }
        )
    elif not quiet and not damaged:
        num_files = sum(len(item.manifest.files) for item in found)
        render.show(*[f"ok  {item.folder}" for item in found], f"{num_files} files match their manifests")
    if damaged:
        fix = (
            f"run '{_remake(found[0].manifest.kind)}', or bring the file back"
            if len(found) == 1
            else "run the stage that made it with --force"
        )
        raise TfcliError(damaged[0], why=_others(damaged), fix=fix, code=ExitCode.ARTIFACT)


def lineage(
    path: options.ArtifactArgument, json: options.JsonOption = False, _debug: options.DebugOption = False
) -> None:
    """Show what an artifact was made from, up to the sources, and mark artifacts that have changed since.

    \b
    Examples: tfcli lineage work/smoke/checkpoint
              tfcli lineage work/smoke
    """
    found = artifacts_at(path)
    if not found:
        raise nothing_at(path)
    below = {(item.folder / entry.path).resolve() for item in found for entry in item.manifest.inputs.values()}
    # of a work folder the artifacts that no other one in it was made from: the rest stands in their trees
    trees = [_ancestry(item, "", ()) for item in found if item.folder.resolve() not in below]
    if json:
        render.show_json(trees[0] if read_manifest(path) is not None else {"artifacts": trees})
        return
    for tree in trees:
        root = render.tree(_label(tree))
        _grow(root, tree, set())
        render.show(root)


def sum_line(sha256: str, name: str) -> str:
    """A line as sha256sum writes it: a name with a line break or a backslash is escaped and marked by a backslash."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{sha256}  {escaped}\n"


def _remake(kind: str) -> str:
    """The command that makes an artifact of `kind` again."""
    return f"tfcli {MAKERS[kind]} {'--retry-failed' if kind == 'latents' else '--force'}"


def _damage(item: FoundArtifact, report: Report, interrupts: Interrupts) -> list[str]:
    """A line for each file that is not what the manifest says."""
    task = f"verify {item.folder.name}"
    files, damaged = item.manifest.files, []
    for done, entry in enumerate(files):
        report(Progress(task, done, len(files), "files"))
        interrupts.check("nothing was changed")
        path = item.folder / entry.path
        if not path.is_file():
            damaged.append(f"{path} is missing")
        elif path.stat().st_size != entry.bytes:
            damaged.append(f"{path} is damaged: {path.stat().st_size:,} bytes, the manifest says {entry.bytes:,}")
        elif hash_file(path) != entry.sha256:
            damaged.append(f"{path} is damaged: other bytes than the manifest says")
    report(Progress(task, len(files), len(files), "files"))
    if not item.manifest.digest_holds():
        damaged.append(f"{item.folder / MANIFEST} is damaged: what it lists does not give its digest")
    known = {entry.path for entry in files} | {MANIFEST}
    extra = [
        path
        for path in item.folder.rglob("*")
        if path.is_file() and path.relative_to(item.folder).as_posix() not in known
    ]
    if extra:
        report(Warn(f"{extra[0]} is not in the manifest{and_more(len(extra) - 1)}"))
    return damaged


def _others(damaged: list[str]) -> str:
    return "; ".join(damaged[1:4]) + (and_more(len(damaged) - 4))


def _with_inputs(found: list[FoundArtifact]) -> list[FoundArtifact]:
    """These artifacts and all that they were made from, each once. Raises TfcliError (ARTIFACT) if one has changed."""
    seen: dict[Path, FoundArtifact] = {}
    waiting = list(reversed(found))
    while waiting:
        item = waiting.pop()
        if seen.setdefault(item.folder.resolve(), item) is not item:
            continue
        for name, entry in item.manifest.inputs.items():
            folder, manifest, state = follow(item.folder, entry)
            if manifest is None or state:
                what = f"{item.folder} was made from {name} at {folder}: {state}"
                fix = f"run 'tfcli {MAKERS[item.manifest.kind]}' again"
                raise TfcliError(what, fix=fix, code=ExitCode.ARTIFACT)
            waiting.append(FoundArtifact(folder, manifest))
    return list(seen.values())


def _ancestry(item: FoundArtifact, state: str, above: tuple[Path, ...]) -> dict[str, Any]:
    """An artifact and its inputs as nested plain values."""
    manifest = item.manifest
    inputs = []
    for entry in manifest.inputs.values():
        folder, below, problem = follow(item.folder, entry)
        # digests cannot form a ring, but a hand-made manifest could
        if below is None or problem or folder.resolve() in above:
            hashes = {"fingerprint": entry.fingerprint, "digest": entry.digest}
            inputs.append(
                {"kind": entry.kind, "path": str(folder), **hashes, "state": problem or "a ring", "inputs": []}
            )
        else:
            inputs.append(_ancestry(FoundArtifact(folder, below), "", (*above, item.folder.resolve())))
    node: dict[str, Any] = {
        "kind": manifest.kind,
        "path": str(item.folder),
        "fingerprint": manifest.fingerprint,
        "digest": manifest.digest,
        "state": state or "ok",
        "inputs": inputs,
    }
    if any((manifest.outside or {}).values()):
        node["outside"] = {"source": manifest.config.get("source"), "identity": manifest.outside}
    return node


def _label(node: dict[str, Any]) -> str:
    hashes = f"fingerprint {render.short(node['fingerprint'])}  digest {render.short(node['digest'])}"
    mark = "" if node["state"] == "ok" else f"  !! {node['state']}"
    return f"{node['kind']}  {node['path']}  {hashes}{mark}"


def _grow(parent: Tree, node: dict[str, Any], shown: set[str]) -> None:
    if node["path"] in shown and (node["inputs"] or "outside" in node):
        render.branch(parent, "(as above)")
        return
    shown.add(node["path"])
    for below in node["inputs"]:
        _grow(render.branch(parent, _label(below)), below, shown)
    if "outside" in node:
        source = node["outside"]["source"] or {}
        about = " ".join(str(source[key]) for key in ("kind", "path") if key in source) or "text"
        render.branch(parent, f"source: {about}  identity {render.short(hash_value(node['outside']['identity']))}")
