"""What `tfcli run` and the commands of single stages share: from options to a made artifact and its facts."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from dataclasses import dataclass
from dataclasses import replace as with_changes
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stages.artifacts.manifest import Manifest, open_artifact, read_manifest
from stages.artifacts.units import RECIPE
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note
from stages.core.interrupts import Interrupts
from stages.core.reading import read_bounded
from stages.core.runtime import Launch, Runtime
from stages.pipeline import Stage, Status, Workspace
from stages.recipe import load_recipe, make_recipe
from stages.sources.files import existing_folder
from tfcli.commands.found import artifact_around
from tfcli.options import WORK_VARIABLE, Call
from tfcli.render import Reporter, seconds_text, short, show

if TYPE_CHECKING:
    from stages.encode_images.plan import EncodePlan


@dataclass(frozen=True)
class Outcome:
    """A stage that is done: the artifact, and what its state was before."""

    before: Status
    manifest: Manifest
    seconds: float

    @property
    def summary(self) -> str:
        return "fresh" if self.before.state == "fresh" else f"ran in {seconds_text(self.seconds)}"

    def as_json(self) -> dict[str, Any]:
        return {
            "stage": self.before.stage.name,
            "path": str(self.before.target),
            "kind": self.manifest.kind,
            "digest": self.manifest.digest,
            "fingerprint": self.manifest.fingerprint,
            "state": self.before.state,
            "reason": self.before.reason,
            "seconds": round(self.seconds, 3),
            "stats": self.manifest.stats,
        }


def open_workspace(call: Call, settings: tuple[str, ...] = ()) -> Workspace:
    """The recipe with its settings (and these on top), and the folder of its artifacts. Raises TfcliError (USAGE)."""
    assert call.recipe is not None
    recipe = load_recipe(call.recipe, call.settings + settings)
    work = _work_of(call, Path("work") / recipe.name)
    return Workspace(recipe, work, read_again=call.force)


def open_checkpoint(given: str, call: Call, settings: tuple[str, ...]) -> Workspace:
    """A finished checkpoint, given by its folder or the work folder around it, with the recipe that it was made with (and the
    settings of the call, and these, on top). Raises TfcliError (USAGE, ARTIFACT)."""
    try:
        folder = existing_folder(given, "checkpoint")
    except TfcliError as error:
        if " " not in given:
            raise
        why = "the first argument is the folder of a checkpoint, where no -r gives a recipe"
        fix = f'tfcli sample work/shapes "{given[:40]}"'
        raise TfcliError(error.what, why=why, fix=fix, code=error.code) from error
    if folder.name in ("", ".."):  # "." has no name and no folder around it
        folder = folder.resolve()
    if read_manifest(folder) is None and read_manifest(folder / "checkpoint") is not None:
        folder = folder / "checkpoint"
    open_artifact(folder, "checkpoint")
    path = folder / RECIPE
    try:
        tree = json.loads(read_bounded(path))
    except (OSError, ValueError) as error:
        tree, why = {}, f"{path}: {error}"
    else:
        why = f"{path} holds no recipe as a whole: an older tfcli wrote it"
    if not isinstance(tree, dict) or "source" not in tree:
        fix = "give the recipe and its work folder: tfcli sample -r RECIPE --work FOLDER ..."
        raise TfcliError(f"{folder} does not say how to sample it", why=why, fix=fix, code=ExitCode.ARTIFACT)
    recipe = make_recipe(tree, call.settings + settings, path)
    own = folder.parent
    return Workspace(recipe, _work_of(call, own) if call.work_typed else work_folder(own), checkpoint=folder)


def _work_of(call: Call, default: Path) -> Path:
    """--work, else $TFCLI_WORK, else the default."""
    if call.work is None:
        return work_folder(default)
    return work_folder(call.work, "--work" if call.work_typed else WORK_VARIABLE)


def work_folder(given: Path, option: str = "--work") -> Path:
    """A work folder, which need not be there yet. Raises TfcliError (USAGE) where it cannot be one. option: what gave it."""
    work = _expanded(given, option)
    try:
        os.lstat(work)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            what = f"not a usable path: {error.strerror}: {work}"[:300]
            raise TfcliError(what, fix="give another path", code=ExitCode.USAGE) from error
    for folder in (work, *work.parents):
        # os.path: a name that is too long is not there; pathlib raises
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise TfcliError(f"{option} {work}: {folder} is a file", fix="give a folder", code=ExitCode.USAGE)
    if (artifact := artifact_around(work)) is not None:
        why = f"{artifact} is a finished artifact, in which nothing else may lie"
        fix = "give the folder around it, or another one"
        raise TfcliError(f"{option} {work} is inside an artifact", why=why, fix=fix, code=ExitCode.USAGE)
    return work


def refusal(workspace: Workspace, stages: list[Stage], call: Call) -> TfcliError | None:
    """Why these stages may not run as the call stands: they would take away a finished training."""
    return None if call.replace else workspace.refusal(stages, force=call.force)


def may_replace(workspace: Workspace, stages: list[Stage], call: Call) -> bool:
    """Whether finished trainings may be replaced: --replace was given, or somebody at the terminal says so.

    Raises TfcliError (ARTIFACT) where one would be and nobody agrees.
    """
    failure = refusal(workspace, stages, call)
    if failure is None:
        return call.replace
    attended = (
        sys.stdin.isatty() and sys.stderr.isatty() and not (call.json or call.quiet) and Launch.found().ranks == 1
    )
    if not attended or not typer.confirm(f"{failure.what} ({failure.why}). Replace it?", err=True):
        raise failure
    return True


def make(workspace: Workspace, stage: Stage, call: Call, interrupts: Interrupts, *, replace: bool = False) -> Outcome:
    """Run `stage` unless its artifact is fresh, and report what state it was in before."""
    outcome = make_part(workspace, stage, call, interrupts, Runtime(), replace=replace)
    assert outcome is not None
    return outcome


def make_part(
    workspace: Workspace, stage: Stage, call: Call, interrupts: Interrupts, wanted: Runtime, *, replace: bool = False
) -> Outcome | None:
    """The same with the part, the engine and the retrying of `wanted`; None where the part is done and others are not."""
    began, launch = time.monotonic(), Launch.found()
    if launch.ranks > 1 and stage.name != "train":
        what = f"tfcli {stage.name} does not run under torchrun"
        fix = f"run 'tfcli {stage.name}' by itself; torchrun is for 'tfcli train'"
        raise TfcliError(what, fix=fix, code=ExitCode.USAGE)
    with Reporter(quiet=call.quiet, silent=launch.rank > 0) as report:
        runtime = with_changes(
            wanted, report=report, interrupts=interrupts, device=call.device, workers=call.workers, launch=launch
        )
        if not call.force:
            with interrupts.at_once():
                status = workspace.status(stage)
            if status.state != "fresh":
                report(Note(f"{stage.name}: {status.state}, {status.reason}"))
        before, manifest = workspace.run(stage, runtime, force=call.force, replace=replace)
        if manifest is None:
            return None
        outcome = Outcome(before, manifest, time.monotonic() - began)
        report(Note(f"{stage.name}: {outcome.summary}"))
        if call.verbose:
            report(Note(f"{stage.name}: {before.target}, fingerprint {short(manifest.fingerprint)}"))
    return outcome


def plan_encode(workspace: Workspace, call: Call) -> EncodePlan:
    """What 'tfcli encode' would take: counts, bytes, time."""
    # here: it loads the autoencoder for a batch
    from stages.encode_images.plan import plan

    recipe = workspace.recipe
    runtime = Runtime(device=call.device, workers=call.workers)
    return plan(recipe.source, recipe.images, recipe.encode, workspace.target("autoencoder"), runtime)


def status_json(status: Status) -> dict[str, Any]:
    """What a dry run says of a stage."""
    return {
        "stage": status.stage.name,
        "path": str(status.target),
        "kind": status.stage.kind,
        "state": status.state,
        "reason": status.reason,
    }


def show_status(status: Status, call: Call) -> None:
    """The same for people."""
    runs = call.force or status.state != "fresh"
    show(
        f"{status.stage.name}: {status.state}, {status.reason}", f"{'would make' if runs else 'keeps'} {status.target}"
    )


def _expanded(path: Path, option: str) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise TfcliError(
            f"{option} {path}",
            why="no home folder of that name",
            fix="write ./~name for a folder with a tilde",
            code=ExitCode.USAGE,
        ) from error
