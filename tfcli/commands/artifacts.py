"""inspect, verify, lineage: what an artifact is, whether it is whole, and what it was made from."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer
from rich.tree import Tree

from stages.artifacts.manifest import MAKERS, MANIFEST, FileEntry, InputEntry, Manifest, digest_of, read_manifest
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Progress, Report, Warn
from stages.core.hashing import hash_file, hash_value
from stages.core.interrupts import Interrupts, watch_signals
from tfcli import options, render
from tfcli.commands.look import show_pictures, show_row

PANEL = "Artifacts"


@dataclass(frozen=True)
class Found:
    """A sealed artifact on disk."""

    folder: Path
    manifest: Manifest


def add_artifacts(app: typer.Typer) -> None:
    """Mount the commands."""
    for name, command in (("inspect", inspect), ("verify", verify), ("lineage", lineage)):
        app.command(name, rich_help_panel=PANEL)(command)


def inspect(
    path: options.ArtifactArgument,
    images: Annotated[
        bool, typer.Option("--images", help="Write a page with its pictures and their texts, and print the path.")
    ] = False,
    count: Annotated[int, typer.Option("--count", min=1, max=10_000, help="Pictures on the page.")] = 48,
    out: Annotated[Path | None, typer.Option("--out", help="The page's file.", show_default="WORK-KIND.html")] = None,
    row: Annotated[int | None, typer.Option("--row", help="Show this row of packed sequences, from 0.")] = None,
    side: Annotated[str, typer.Option("--side", metavar="train|heldout", help="The side of --row.")] = "train",
    device: options.DeviceOption = "auto",
    json: options.JsonOption = False,
    _debug: options.DebugOption = False,
) -> None:
    """Tell what an artifact holds and how it was made, or list the artifacts of a work folder.

    \b
    Examples: tfcli inspect work/smoke
              tfcli inspect work/smoke/latents --json
              tfcli inspect work/smoke/latents --images
              tfcli inspect work/smoke/sequences --row 0
    """
    found = _artifacts(path)
    single = found[0].folder == path if found else False
    if images or row is not None:
        if not single:
            raise TfcliError(f"{path} is a work folder", fix="give one of its artifacts", code=ExitCode.USAGE)
        if images:
            show_pictures(found[0].folder, found[0].manifest, count, out, device)
        if row is not None:
            show_row(found[0].folder, found[0].manifest, row, side, json)
        return
    if json:
        objects = [_as_json(item) for item in found]
        render.show_json(
            objects[0] if single else {"work": str(path), "artifacts": objects, "unfinished": _partials(path)}
        )
    elif single:
        _show_artifact(found[0])
    else:
        cells = [_work_row(item) for item in found]
        cells += [(name, "not finished: run its stage again", "", "", "") for name in _partials(path)]
        render.show(render.rows(("folder", "made", "digest", "files", "size"), cells))


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
    """Read every file of an artifact again and compare it with the manifest. Exit code 4 names what is damaged.

    \b
    Examples: tfcli verify work/smoke
              tfcli verify work/smoke/checkpoint --deep
              (cd work/smoke/latents; tfcli verify . --sha256sums | sha256sum -c)
    """
    if sha256sums and json:
        raise TfcliError("--sha256sums and --json exclude each other", fix="leave one of them out", code=ExitCode.USAGE)
    found = _artifacts(path)
    if not found:
        raise _nothing(path)
    if deep:
        found = _with_inputs(found)
    if sha256sums:
        root = path.resolve()
        for item in found:
            for entry in item.manifest.files:
                name = os.path.relpath(item.folder.resolve() / _inside(item, entry), root)
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
        render.show(*[f"ok  {item.folder}" for item in found], f"{num_files} files are as their manifests say")
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
    """Show what an artifact was made from, up to the sources, and mark inputs that are no longer the same.

    \b
    Example: tfcli lineage work/smoke/checkpoint
    """
    manifest = read_manifest(path)
    if manifest is None:
        raise _nothing(path)
    tree = _ancestry(Found(path, manifest), "", ())
    if json:
        render.show_json(tree)
        return
    root = render.tree(_label(tree))
    _grow(root, tree, set())
    render.show(root)


def sum_line(sha256: str, name: str) -> str:
    """A line as sha256sum writes it: a name with a line break or a backslash is escaped and marked by a backslash."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{sha256}  {escaped}\n"


def _artifacts(path: Path) -> list[Found]:
    """The artifact at `path`, or those of the work folder `path`, in the order of the pipeline."""
    if not path.exists():
        raise TfcliError(f"{path} does not exist", fix="give an artifact or a work folder", code=ExitCode.USAGE)
    manifest = read_manifest(path)
    if manifest is not None:
        return [Found(path, manifest)]
    found = []
    for folder in sorted(path.iterdir()) if path.is_dir() else []:
        # an unfinished artifact is no artifact, even if a kill came between its manifest and its rename
        below = read_manifest(folder) if not re.search(r"\.(partial|old-\d+)$", folder.name) else None
        if below is not None:
            found.append(Found(folder, below))
    if not found and not _partials(path):
        raise _nothing(path)
    order = list(MAKERS)
    return sorted(found, key=lambda item: (order.index(item.manifest.kind), item.folder.name))


def _partials(path: Path) -> list[str]:
    return sorted(folder.name for folder in path.glob("*.partial")) if path.is_dir() else []


def _nothing(path: Path) -> TfcliError:
    why = "the folder has no manifest.json, and no folder in it has one"
    return TfcliError(
        f"no artifact at {path}", why=why, fix="give an artifact or a work folder", code=ExitCode.ARTIFACT
    )


def _inside(item: Found, entry: FileEntry) -> str:
    """The file's name, refused if it would lead out of the artifact: a manifest may come from anywhere."""
    name = PurePosixPath(entry.path)
    if name.is_absolute() or ".." in name.parts or "\x00" in entry.path:
        what = f"{item.folder / MANIFEST} names a file outside of its folder: {entry.path}"
        raise TfcliError(what, fix="do not use this artifact", code=ExitCode.ARTIFACT)
    return entry.path


def _remake(kind: str) -> str:
    """The command that mends an artifact of `kind`."""
    return f"tfcli {MAKERS[kind]} {'--retry-failed' if kind == 'latents' else '--force'}"


def _damage(item: Found, report: Report, interrupts: Interrupts) -> list[str]:
    """A line for each file that is not what the manifest says."""
    task = f"verify {item.folder.name}"
    files, damaged = item.manifest.files, []
    for done, entry in enumerate(files):
        report(Progress(task, done, len(files), "files"))
        interrupts.check("nothing was changed")
        path = item.folder / _inside(item, entry)
        if not path.is_file():
            damaged.append(f"{path} is missing")
        elif path.stat().st_size != entry.bytes:
            damaged.append(f"{path} is damaged: {path.stat().st_size:,} bytes, the manifest says {entry.bytes:,}")
        elif hash_file(path) != entry.sha256:
            damaged.append(f"{path} is damaged: other bytes than the manifest says")
    report(Progress(task, len(files), len(files), "files"))
    if digest_of(files) != item.manifest.digest:
        damaged.append(f"{item.folder / MANIFEST} is damaged: its list of files does not give its digest")
    known = {entry.path for entry in files} | {MANIFEST}
    extra = [
        path
        for path in item.folder.rglob("*")
        if path.is_file() and path.relative_to(item.folder).as_posix() not in known
    ]
    if extra:
        report(Warn(f"{extra[0]} is not in the manifest{_and_more(len(extra) - 1)}"))
    return damaged


def _others(damaged: list[str]) -> str:
    return "; ".join(damaged[1:4]) + (_and_more(len(damaged) - 4))


def _and_more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""


def _with_inputs(found: list[Found]) -> list[Found]:
    """These artifacts and all that they were made from, each once. Raises TfcliError (ARTIFACT) if one has changed."""
    seen: dict[Path, Found] = {}
    waiting = list(reversed(found))
    while waiting:
        item = waiting.pop()
        if seen.setdefault(item.folder.resolve(), item) is not item:
            continue
        for name, entry in item.manifest.inputs.items():
            folder, manifest, state = _follow(item.folder, entry)
            if manifest is None or state:
                what = f"{item.folder} was made from {name} at {folder}: {state}"
                fix = f"run 'tfcli {MAKERS[item.manifest.kind]}' again"
                raise TfcliError(what, fix=fix, code=ExitCode.ARTIFACT)
            waiting.append(Found(folder, manifest))
    return list(seen.values())


def _follow(folder: Path, entry: InputEntry) -> tuple[Path, Manifest | None, str]:
    """Where an input lies, what is there now, and "" or what is wrong with it."""
    path = Path(os.path.relpath((folder / entry.path).resolve()))
    try:
        manifest = read_manifest(path)
    except TfcliError as error:
        return path, None, f"cannot be read ({error.why})"
    if manifest is None:
        return path, None, "no longer there"
    if manifest.digest != entry.digest:
        return path, manifest, f"changed since: digest {render.short(manifest.digest)} now"
    return path, manifest, ""


def _ancestry(item: Found, state: str, above: tuple[Path, ...]) -> dict[str, Any]:
    """An artifact and its inputs as nested plain values."""
    manifest = item.manifest
    inputs = []
    for entry in manifest.inputs.values():
        folder, below, problem = _follow(item.folder, entry)
        # digests cannot form a ring, but a hand-made manifest could
        if below is None or problem or folder.resolve() in above:
            facts = {"fingerprint": entry.fingerprint, "digest": entry.digest}
            inputs.append(
                {"kind": entry.kind, "path": str(folder), **facts, "state": problem or "a ring", "inputs": []}
            )
        else:
            inputs.append(_ancestry(Found(folder, below), "", (*above, item.folder.resolve())))
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


def _as_json(item: Found) -> dict[str, Any]:
    manifest = item.manifest
    files = {"number": len(manifest.files), "bytes": sum(entry.bytes for entry in manifest.files)}
    return {
        "path": str(item.folder),
        **manifest.model_dump(
            include={"kind", "stage", "stage_version", "fingerprint", "digest", "seed", "content", "stats"}
        ),
        "files": files,
        "inputs": {name: entry.model_dump() for name, entry in manifest.inputs.items()},
        "provenance": manifest.provenance,
    }


def _work_row(item: Found) -> tuple[str, ...]:
    manifest = item.manifest
    size = sum(entry.bytes for entry in manifest.files)
    made = str(manifest.provenance.get("finished", ""))
    return (item.folder.name, made, render.short(manifest.digest), str(len(manifest.files)), render.size_text(size))


def _show_artifact(item: Found) -> None:
    manifest = item.manifest
    made = {
        "made by": f"tfcli {manifest.stage}, stage version {manifest.stage_version}",
        "finished": manifest.provenance.get("finished", ""),
        "seed": manifest.seed,
        "fingerprint": manifest.fingerprint,
        "digest": manifest.digest,
    }
    render.show(f"{manifest.kind}  {item.folder}", render.pairs(made))
    for title, values in (("content", manifest.content), ("stats", manifest.stats)):
        if values:
            render.show("", title, render.pairs(values))
    if manifest.inputs:
        render.show("", "made from")
    for entry in manifest.inputs.values():
        folder, _, state = _follow(item.folder, entry)
        render.show(f"  {entry.kind}  {folder}  digest {render.short(entry.digest)}  {state or 'ok'}")
    render.show("", f"files: {len(manifest.files)}", render.pairs(_file_summary(manifest.files)))


def _file_summary(files: list[FileEntry]) -> dict[str, Any]:
    """Files at the top by name, folders by their number of files and bytes."""
    sizes: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for entry in files:
        top, slash, _ = entry.path.partition("/")
        sizes[top + slash] += entry.bytes
        numbers[top + slash] += 1
    return {
        name: render.size_text(sizes[name]) + (f" in {numbers[name]} files" if name.endswith("/") else "")
        for name in sorted(sizes)
    }
