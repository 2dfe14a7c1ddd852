"""The order of the stages: what each reads and makes, and whether it is fresh, stale or missing.

    source -> vae -> encode -> tokenize -> pack -> train -> sample, eval

A stage reads the sections and artifacts that are named here and nothing else, so that a changed key makes exactly the
stages stale that read it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from dataclasses import replace as with_changes
from functools import cached_property, partial
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from stages.artifacts.autoencoder import weights_at
from stages.artifacts.context import StageContext
from stages.artifacts.folder import Build, building, saves_in_the_way, units_to_redo
from stages.artifacts.lineage import LEARNED, is_learned, lineage, readable
from stages.artifacts.lock import Lock
from stages.artifacts.manifest import (
    MAKERS,
    InputEntry,
    Manifest,
    Stamp,
    check_built_on,
    input_entry,
    open_artifact,
    read_manifest,
)
from stages.artifacts.removal import clean_up, leftovers
from stages.artifacts.tokens import tokenizer_at
from stages.artifacts.units import RECIPE
from stages.core.config import Section, neutral_names, result_config
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note
from stages.core.files import write_json
from stages.core.hashing import hash_file
from stages.core.runtime import Runtime
from stages.recipe import Recipe, recipe_tree
from stages.sources.files import existing
from stages.sources.hash_cache import KnownHashes, Unchanged
from stages.tokenize_text.config import PretrainedTokenizer
from stages.train_autoencoder.config import PretrainedVae

HASHES = "source-hashes.json"  # in the work folder
Identity = Callable[[KnownHashes], Any]  # of a source: the hashes of its files
Watched = tuple[Identity, KnownHashes]
State = Literal["fresh", "stale", "missing", "partial", "waits"]


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline. sections and inputs become keyword arguments of `<module>.stage.run`."""

    name: str
    module: str
    kind: str
    sections: tuple[str, ...]
    inputs: tuple[str, ...]  # kinds of the artifacts that it reads
    neutral_sections: tuple[str, ...] = ()  # more sections that it gets, which cannot change the result

    @property
    def version(self) -> int:
        """VERSION in the stage's config.py."""
        version: int = import_module(f"{self.module.rpartition('.')[0]}.config").VERSION
        return version


STAGES = (
    Stage("vae", "stages.train_autoencoder.stage", "autoencoder", ("source", "images", "vae"), ()),
    Stage("encode", "stages.encode_images.stage", "latents", ("source", "images", "encode"), ("autoencoder",)),
    Stage("tokenize", "stages.tokenize_text.stage", "tokens", ("tokenize",), ("latents",)),
    Stage("pack", "stages.pack_sequences.stage", "sequences", ("pack",), ("tokens", "latents")),
    Stage(
        "train",
        "stages.train_model.stage",
        "checkpoint",
        ("model", "diffusion", "train"),
        ("sequences",),
        neutral_sections=("sample.generation",),
    ),
    Stage("sample", "stages.sample_model.stage", "samples", ("sample",), ("checkpoint",)),
    Stage("eval", "stages.evaluate_model.stage", "scores", ("eval",), ("checkpoint",)),
)
BY_NAME = {stage.name: stage for stage in STAGES}


@dataclass(frozen=True)
class Status:
    """What `plan` found for a stage. reason: one line for people. damaged: made with these settings, but no longer whole."""

    stage: Stage
    state: State
    reason: str
    target: Path
    damaged: bool = False


class Workspace:
    """A recipe and the folder that holds its artifacts, one folder a kind."""

    def __init__(
        self,
        recipe: Recipe,
        work: Path,
        samples: str = "samples",
        checkpoint: Path | None = None,
        *,
        read_again: bool = False,
    ) -> None:
        """
        Args:
            recipe: of all stages.
            work: folder of the artifacts.
            samples: name of the folder of samples; samples of other prompts have a folder of their own next to the recipe's.
            checkpoint: folder of a checkpoint outside `work`.
            read_again: hash all files of the source, also those whose size and time have not changed.
        """
        self.recipe = recipe
        self.work = work
        self.samples = samples
        self.checkpoint = checkpoint
        self._hashes = None if read_again else work / HASHES
        self._watched: dict[str, list[Watched]] = {}  # by the name of the stage
        self._seen_outside: dict[str, dict[str, Any]] = {}

    def target(self, kind: str) -> Path:
        """Folder of the artifact of `kind`."""
        if kind == "checkpoint" and self.checkpoint is not None:
            return self.checkpoint
        return self.work / (self.samples if kind == "samples" else kind)

    @cached_property
    def _source(self) -> tuple[Any, Watched]:
        return self._identity(self.recipe.source.identity)

    def _identity(self, identity: Identity) -> tuple[Any, Watched]:
        """The hashes of files of the user's, and what it takes to see whether they are still the same."""
        known = KnownHashes(self._hashes)
        return identity(known), (identity, known)

    def section(self, name: str) -> Any:
        return getattr(self.recipe, name)

    def stamp(self, stage: Stage) -> Stamp:
        """How `stage` would make its artifact now. Raises TfcliError (ARTIFACT) if an input is not there."""
        target = self.target(stage.kind)
        inputs: dict[str, InputEntry] = {}
        for kind in stage.inputs:
            inputs[kind] = input_entry(self.target(kind), target, open_artifact(self.target(kind), kind))
        if stage.name == "train" and (start := self.start()) is not None:
            inputs["start"] = input_entry(start[0], target, start[1])
        return Stamp(
            kind=stage.kind,
            stage=stage.name,
            stage_version=stage.version,
            seed=self.recipe.seed,
            config={name: result_config(self.section(name)) for name in stage.sections},
            outside=self._outside_of(stage) or None,
            inputs=inputs,
            neutral=frozenset(key for name in stage.sections for key in neutral_names(self.section(name), f"{name}.")),
        )

    def start(self) -> tuple[Path, Manifest] | None:
        """The checkpoint that training starts from. Raises TfcliError (ARTIFACT) where none is there."""
        named = self.recipe.train.start_from
        if not named:
            return None
        folder = Path(os.path.expanduser(named))
        own = self.target("checkpoint").resolve()
        if folder.resolve() in (own, own.parent):
            what = f"train.start_from: {named} is the checkpoint that this training makes"
            why = "it would be replaced by one that starts from it, at every run again"
            raise TfcliError(what, why=why, fix="give --work another folder", code=ExitCode.USAGE)
        if read_manifest(folder) is None:
            why, fix = "the folder has no manifest.json", "train it first, or give the folder of a finished checkpoint"
            raise TfcliError(f"train.start_from: no checkpoint at {named}", why=why, fix=fix, code=ExitCode.ARTIFACT)
        return folder, open_artifact(folder, "checkpoint")

    def _outside_of(self, stage: Stage) -> dict[str, Any]:
        """The same each time it is asked for: a large corpus is read once."""
        if stage.name not in self._seen_outside:
            self._seen_outside[stage.name] = self._outside(stage)
        return self._seen_outside[stage.name]

    def _outside(self, stage: Stage) -> dict[str, Any]:
        """What a stage reads that is no artifact: the source's files, and finished weights and vocabularies by path."""
        outside: dict[str, Any] = {}
        watched = self._watched[stage.name] = []

        def hashes(path: Path) -> Any:
            identity, of_path = self._identity(partial(_hashes, path))
            watched.append(of_path)
            return identity

        if "source" in stage.sections:
            outside["source"], of_source = self._source
            watched.append(of_source)
        if stage.name == "vae":
            vae = self.recipe.vae
            path = weights_at(vae.path) if isinstance(vae, PretrainedVae) else vae.lpips_weights
            outside["weights"] = hashes(Path(path)) if path else None
        if stage.name == "tokenize":
            found = [self._identity(source.identity) for source in self.recipe.tokenize.text]
            outside["text"] = [identity for identity, _ in found]
            watched += [of_text for _, of_text in found]
            if self.recipe.tokenize.captions:
                outside["captions"] = hashes(existing(self.recipe.tokenize.captions, "captions"))
            if isinstance(self.recipe.tokenize.tokenizer, PretrainedTokenizer):
                outside["tokenizer"] = hashes(tokenizer_at(self.recipe.tokenize.tokenizer.path))
        if stage.name == "sample" and (pictures := self.recipe.sample.pictures()):
            outside["pictures"] = {name: hashes(existing(name, "picture")) for name in pictures}
        return outside

    def _check_unchanged(self, stage: Stage) -> None:
        """Raise TfcliError (INPUT) where a file that the stage was named by is another one than when it was hashed."""
        for identity, known in self._watched.get(stage.name, ()):
            identity(Unchanged(known))

    def status(self, stage: Stage) -> Status:
        """fresh, stale (and which setting or input changed), partial, missing, or waits for an input."""
        target = self.target(stage.kind)
        for kind in stage.inputs:
            if read_manifest(self.target(kind)) is None:
                return Status(stage, "waits", f"needs {kind} ('tfcli {MAKERS[kind]}')", target)
        manifest = read_manifest(target)
        if manifest is None:  # before the stamp: that reads all of the source's files
            partial = target.with_name(target.name + ".partial").is_dir()
            return Status(
                stage, "partial" if partial else "missing", "not finished" if partial else "not made yet", target
            )
        stamp = self.stamp(stage)
        if not stamp.is_of(manifest.fingerprint, manifest.fingerprint_inputs()):
            return Status(stage, "stale", f"{stamp.changed(manifest.fingerprint_inputs())} changed", target)
        try:
            open_artifact(target, stage.kind)
            for name, entry in stamp.inputs.items():
                path = (target / entry.path).resolve()
                if (found := read_manifest(path)) is not None:
                    check_built_on(target, manifest, name, path, found)
        except TfcliError as error:
            return Status(stage, "stale", f"{error.what}: {error.why}", target, damaged=True)
        return Status(stage, "fresh", manifest.digest[:12], target)

    def refusal(self, stages: list[Stage], *, force: bool = False) -> TfcliError | None:
        """Why a run of `stages` may not start without `replace` (or `force`, which makes each of them again): it would replace a
        finished training, take away what one was built on, or delete the saves of one that was stopped. None where it may."""
        if force:
            return None
        statuses = list(self.plan(tuple(stage.name for stage in stages)))
        return next((refused for status in statuses if (refused := self._refusal_of(status)) is not None), None)

    def _refusal_of(self, status: Status) -> TfcliError | None:
        """Why the run of one stage may not start; None where it may."""
        if status.state in ("fresh", "waits") or (status.damaged and status.stage.kind not in LEARNED):
            return None  # what is damaged gives the same again
        if (lost := self._trained_on(status.target)) is not None:
            return self._would_replace(status, *lost)
        if status.state == "partial" and status.stage.name == "train":
            with suppress(TfcliError):  # inputs that are not there yet
                return saves_in_the_way(status.target, self.stamp(status.stage))
        return None

    def _trained_on(self, target: Path) -> tuple[Path, Manifest] | None:
        """The finished training in this work folder that goes with the artifact at `target`: that one itself, or one that was
        built on it. None where nothing is there."""
        if readable(target) is None:
            return None
        for kind in reversed(LEARNED):
            folder = self.target(kind)
            manifest = readable(folder)
            if manifest is not None and is_learned(manifest) and target.resolve() in lineage(folder, manifest):
                return folder, manifest
        return None

    def _would_replace(self, status: Status, folder: Path, manifest: Manifest) -> TfcliError:
        steps = manifest.content.get("steps") or manifest.config.get("vae", {}).get("steps")
        what = f"{folder} is a finished training" + (f" of {steps:,} steps" if isinstance(steps, int) else "")
        same = folder.resolve() == status.target.resolve()
        does = "this run would replace it" if same else f"this run would replace {status.target}, which it was built on"
        return TfcliError(
            f"{what}: {does}",
            why=f"{status.stage.name}: {status.reason}",
            fix="give another --work, or add --replace to replace what has changed settings or inputs",
            code=ExitCode.ARTIFACT,
        )

    def plan(self, names: tuple[str, ...] = ()) -> Iterator[Status]:
        """The status of each stage in order; a stage after one that is not fresh is reported as such."""
        unsettled: dict[str, str] = {}
        for stage in STAGES:
            if names and stage.name not in names:
                continue
            upstream = next((unsettled[kind] for kind in stage.inputs if kind in unsettled), None)
            try:
                status = self.status(stage)
            except TfcliError:
                if upstream is None:
                    raise
                status = Status(stage, "waits", f"its inputs are made again by {upstream}", self.target(stage.kind))
            if upstream and status.state == "fresh":
                status = Status(stage, "waits", f"runs again if {upstream} gives another result", status.target)
            if status.state != "fresh":
                unsettled[stage.kind] = upstream or stage.name
            yield status

    def run(
        self, stage: Stage, runtime: Runtime, *, force: bool = False, replace: bool = False
    ) -> tuple[Status, Manifest | None]:
        """Make the artifact of `stage` unless it is fresh. The status is the one before the run; no manifest where this was
        a part of the work (`runtime.part`) and others are not done.

        Raises TfcliError (ARTIFACT) as `refusal` says, unless `replace` or `force` is given.
        """
        target = self.target(stage.kind)
        with runtime.interrupts.at_once():  # hashing a large source takes minutes, and keeps nothing
            # not asked where it is forced: a manifest that cannot be read is what --force is for
            before = Status(stage, "stale", "--force was given", target) if force else self.status(stage)
            if before.state == "fresh":
                sealed = open_artifact(target, stage.kind)
                if not sealed.has_sum:
                    runtime.report(Note(f"{target}: an older tfcli made it; its manifest has no sum over itself yet"))
                if leftovers(target):
                    with Lock(target, "whole run") as lock:
                        if lock.take_alone():
                            clean_up(target, runtime.report)
                redo = units_to_redo(target) if runtime.retry_failed else 0
                if not redo:
                    return before, sealed
                before = Status(stage, "stale", f"{redo} shards have failures or are damaged", target)
            elif not (replace or force) and (refused := self._refusal_of(before)) is not None:
                raise refused
            stamp = self.stamp(stage)
        if runtime.launch.rank:  # one of many processes at a training: the first makes the artifact
            self._call(stage, Build(target, stamp), runtime)
            return before, None
        with _named(target), building(target, stamp, runtime, force=force, replace=replace) as build:
            if build.sealed is None:
                write_json(build.folder / RECIPE, recipe_tree(self.recipe))
                self._call(stage, build, runtime)
        if build.sealed is None and runtime.part.whole:
            raise TfcliError(f"{stage.name} left no artifact", why="a bug in tfcli", code=ExitCode.BUG)
        return before, build.sealed

    def _call(self, stage: Stage, build: Build, runtime: Runtime) -> None:
        run: Callable[..., None] = import_module(stage.module).run
        sections: dict[str, Section] = {name: self.section(name) for name in stage.sections}
        sections |= {name.rpartition(".")[2]: attrgetter(name)(self.recipe) for name in stage.neutral_sections}
        inputs = {kind: self.target(kind) for kind in stage.inputs}
        runtime = with_changes(runtime, inputs_unchanged=partial(self._check_unchanged, stage))
        runtime.inputs_unchanged()  # they were hashed before the stages above were made, which may be days ago
        run(**sections, **inputs, context=StageContext(build, runtime, self.recipe.seed))


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """The system names no file where it refuses a read, a write or a lock of one that is open: then the artifact is named."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = f"a file of {target}"
        raise


def _hashes(path: Path, known: KnownHashes) -> dict[str, str]:
    """SHA-256 of a file, or of the files right inside a folder, by name; empty where there is nothing (a hub id)."""
    path = Path(os.path.expanduser(path))  # unlike Path.expanduser, it leaves ~nobody as it is
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    plain = [file for file in files if file.is_file()]
    known.watch(path if path.is_dir() else path.parent, [file.name for file in plain])
    return {} if isinstance(known, Unchanged) else {file.name: hash_file(file) for file in plain}
