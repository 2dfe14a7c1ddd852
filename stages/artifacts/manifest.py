"""The manifest that makes a folder an artifact: how it was made (fingerprint), what it is (digest), what later stages read."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from stages.artifacts.changes import what_changed, without
from stages.artifacts.schema import schema_of
from stages.core.config import first_problem
from stages.core.errors import ExitCode, TfcliError
from stages.core.files import check_sum, read_json, with_sum, write_json
from stages.core.hashing import hash_value
from stages.core.reading import inside, safe_name
from stages.core.system import refuse_unreadable

Content = TypeVar("Content", bound=BaseModel)
ENVELOPE = 3  # 1: the digest covered the files alone; 2: no sum over the manifest itself
_FIRST_WITH_SUM = 3
MANIFEST = "manifest.json"
# All kinds, and the command that makes each: error messages name it.
MAKERS = {
    "autoencoder": "vae",
    "latents": "encode",
    "tokens": "tokenize",
    "sequences": "pack",
    "checkpoint": "train",
    "samples": "sample",
    "scores": "eval",
}


class FileEntry(BaseModel):
    """One file of an artifact. volatile: logs with times in them, which the digest leaves out. path: inside the folder; every
    reader of a manifest or a record gets this check."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    bytes: int = Field(ge=0)
    sha256: str
    volatile: bool = False

    @field_validator("path")
    @classmethod
    def _inside(cls, path: str) -> str:
        return safe_name(path)


class InputEntry(BaseModel):
    """An artifact that this one was made from. path is relative to the folder of this artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    path: str
    kind: str
    fingerprint: str
    digest: str

    @field_validator("path")
    @classmethod
    def _relative(cls, path: str) -> str:
        if not path or "\x00" in path or path.startswith("/"):
            raise ValueError("not a relative path")
        return path

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in MAKERS:
            raise ValueError("no such kind of artifact")
        return kind


class Manifest(BaseModel):
    """The content of `manifest.json` (design: two hashes, three versions; facts in content, numbers in stats)."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    envelope: int
    kind: str
    schema_version: int
    stage: str
    stage_version: int
    fingerprint: str
    digest: str
    seed: int
    config: dict[str, Any]
    outside: Any
    inputs: dict[str, InputEntry]
    content: dict[str, Any]
    stats: dict[str, Any]
    files: list[FileEntry]
    provenance: dict[str, Any]

    def digest_holds(self) -> bool:
        """Whether the digest is the one of what the manifest lists."""
        found = _hash_files(self.files) if self.envelope == 1 else digest_of(self.files, self.content, self.inputs)
        return found == self.digest

    @property
    def has_sum(self) -> bool:
        """Whether it was written with a sum over itself; older ones are checked by their digest and fingerprint."""
        return self.envelope >= _FIRST_WITH_SUM

    def fingerprint_inputs(self) -> dict[str, Any]:
        """What the fingerprint is a hash of, by name, as `Stamp.fingerprint_inputs`."""
        return _fingerprint_inputs(self, self.schema_version)


@dataclass(frozen=True)
class Stamp:
    """How an artifact is going to be made: everything that can change its bytes.

    neutral: dotted names of settings that are no part of it. An older tfcli may have counted some of them: in what it made
    they are left out before the comparison.
    """

    kind: str
    stage: str
    stage_version: int
    seed: int
    config: dict[str, Any]
    outside: Any = None
    inputs: dict[str, InputEntry] = field(default_factory=dict)
    neutral: frozenset[str] = frozenset()

    @property
    def fingerprint(self) -> str:
        """Hash over stage, versions, result-affecting config, digests of inputs, hashes of outside files, seed."""
        return hash_value(self.fingerprint_inputs())

    def fingerprint_inputs(self) -> dict[str, Any]:
        """What the fingerprint is a hash of, by name; comparing two of these says what changed."""
        return _fingerprint_inputs(self, schema_of(self.kind).version)

    def is_of(self, fingerprint: str, inputs: dict[str, Any]) -> bool:
        """Whether something with this fingerprint of these inputs was made, or is being made, as this says."""
        return fingerprint == self.fingerprint or hash_value(self._counted(inputs)) == self.fingerprint

    def changed(self, inputs: dict[str, Any]) -> str:
        """The settings and inputs, by name, in which another one differs."""
        return what_changed(self._counted(inputs), self.fingerprint_inputs())

    def _counted(self, inputs: dict[str, Any]) -> dict[str, Any]:
        schema, version = schema_of(self.kind), inputs["schema_version"]
        # what an upgrade makes readable need not be made again
        version = schema.version if isinstance(version, int) and schema.reads(version) else version
        return {**inputs, "schema_version": version, "config": without(inputs["config"], self.neutral)}


def _fingerprint_inputs(of: Manifest | Stamp, schema_version: int) -> dict[str, Any]:
    return {
        "kind": of.kind,
        "schema_version": schema_version,
        "stage": of.stage,
        "stage_version": of.stage_version,
        "seed": of.seed,
        "config": of.config,
        "outside": of.outside,
        "inputs": {name: entry.digest for name, entry in of.inputs.items()},
    }


def digest_of(files: list[FileEntry], content: dict[str, Any], inputs: dict[str, InputEntry]) -> str:
    """Hash over (path, bytes, sha256) of every file that is not volatile, the content that flows down, and the digests of the
    inputs: an artifact points into them, so that the same bytes on top of other inputs are another artifact."""
    return hash_value([_hash_files(files), content, {name: entry.digest for name, entry in inputs.items()}])


def _hash_files(files: list[FileEntry]) -> str:
    return hash_value(sorted([entry.path, entry.bytes, entry.sha256] for entry in files if not entry.volatile))


def is_other(entry: InputEntry, found: Manifest) -> bool:
    """Whether `found` is not what was built on. A digest of envelope 1 does not cover the inputs of the input: there its
    fingerprint has to be the same as well."""
    return found.digest != entry.digest or (found.envelope == 1 and found.fingerprint != entry.fingerprint)


def make_manifest(
    stamp: Stamp, content: dict[str, Any], stats: dict[str, Any], files: list[FileEntry], started: datetime
) -> Manifest:
    """The manifest of a finished artifact."""
    return Manifest(
        envelope=ENVELOPE,
        kind=stamp.kind,
        schema_version=schema_of(stamp.kind).version,
        stage=stamp.stage,
        stage_version=stamp.stage_version,
        fingerprint=stamp.fingerprint,
        digest=digest_of(files, content, stamp.inputs),
        seed=stamp.seed,
        config=stamp.config,
        outside=stamp.outside,
        inputs=stamp.inputs,
        content=content,
        stats=stats,
        files=sorted(files, key=lambda entry: entry.path),
        provenance=_provenance(started),
    )


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write it with its sum."""
    write_json(path, with_sum(manifest.model_dump()))


def read_manifest(folder: Path, *, check: bool = True) -> Manifest | None:
    """The manifest of `folder`, None where there is none. Raises TfcliError (ARTIFACT) where it cannot be read or is damaged.

    check: the sum over all of it; of one that was written before there was a sum, the digest and the fingerprint.
    """
    path = folder / MANIFEST
    try:
        raw = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except TfcliError as error:
        raise (_unreadable(path, error.why) if error.code == ExitCode.ARTIFACT else error) from error
    if not isinstance(raw, dict):
        raise _unreadable(path, "not a JSON object")
    envelope = raw.get("envelope")
    if isinstance(envelope, int) and envelope > ENVELOPE:
        raise _unreadable(path, f"made by a newer tfcli (envelope {envelope}, this one knows {ENVELOPE})")
    if isinstance(envelope, int) and envelope >= _FIRST_WITH_SUM:
        raw = _without_sum(raw, path, check)
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        raise _unreadable(path, first_problem(error)) from error
    if manifest.kind not in MAKERS or manifest.schema_version > schema_of(manifest.kind).version:
        raise _unreadable(path, f"made by a newer tfcli ({manifest.kind}, schema {manifest.schema_version})")
    if check and not manifest.has_sum:
        _check_hashes(path, manifest)
    return manifest


def _without_sum(raw: dict[str, Any], path: Path, check: bool) -> dict[str, Any]:
    if not check:
        return {key: value for key, value in raw.items() if key != "sha256"}
    try:
        return check_sum(raw, path)
    except TfcliError as error:
        raise _unreadable(path, "it is damaged: its sum differs from its content") from error


def _check_hashes(path: Path, manifest: Manifest) -> None:
    """What a manifest without a sum says of itself: its digest of its files, its fingerprint of its settings."""
    if not manifest.digest_holds():
        raise _unreadable(path, "it is damaged: what it lists does not give its digest")
    if hash_value(manifest.fingerprint_inputs()) != manifest.fingerprint:
        raise _unreadable(path, "it is damaged: its settings do not give its fingerprint")


def open_artifact(folder: Path, kind: str) -> Manifest:
    """The manifest of a sealed artifact of `kind`, after a `stat` of each of its files.

    Raises TfcliError (ARTIFACT) where it is missing, incomplete, of another kind, or a file is gone or has another size.
    """
    manifest = read_manifest(folder)
    command = f"tfcli {MAKERS[kind]}"
    if manifest is None:
        partial = folder.with_name(folder.name + ".partial").exists()
        raise TfcliError(
            f"no {kind} at {folder}",
            why="it was started but not finished" if partial else "the folder has no manifest.json",
            fix=f"run '{command}' with the same recipe and --work first",
            code=ExitCode.ARTIFACT,
        )
    if manifest.kind != kind:
        raise TfcliError(
            f"{folder} holds {manifest.kind}, not {kind}", fix=f"give the folder of a {kind}", code=ExitCode.ARTIFACT
        )
    if not (schema := schema_of(kind)).reads(manifest.schema_version):
        why = f"{kind} of schema {manifest.schema_version}, this tfcli reads {schema.version}"
        raise TfcliError(
            f"{folder} was made by an older tfcli", why=why, fix=f"run '{command}'", code=ExitCode.ARTIFACT
        )
    for entry in manifest.files:
        check_size(folder, entry, f"run '{command}' to make it again")
    return manifest


def read_content(folder: Path, manifest: Manifest, model: type[Content]) -> Content:
    """The content of a manifest as its kind has it, upgraded where its schema is an older one. Raises TfcliError (ARTIFACT) where
    it is something else."""
    try:
        return model.model_validate(schema_of(manifest.kind).upgraded(manifest.content, manifest.schema_version))
    except ValidationError as error:
        raise _unreadable(folder / MANIFEST, first_problem(error, "content")) from error


def check_size(folder: Path, entry: FileEntry, fix: str) -> None:
    """Raise TfcliError (ARTIFACT) if the file is missing or has another size than the manifest says."""
    path = inside(folder, entry.path)
    try:
        size = path.stat().st_size
    except OSError as error:
        refuse_unreadable(path, error)
        why = error.strerror or "cannot be read"
        raise TfcliError(f"{folder / entry.path} is missing", why=why, fix=fix, code=ExitCode.ARTIFACT) from error
    if size != entry.bytes:
        why = f"{size} bytes, the manifest says {entry.bytes}"
        raise TfcliError(f"{folder / entry.path} is damaged", why=why, fix=fix, code=ExitCode.ARTIFACT)


def input_entry(folder: Path, consumer: Path, manifest: Manifest) -> InputEntry:
    """The entry that the artifact at `consumer` keeps of its input at `folder`."""
    relative = os.path.relpath(folder.resolve(), consumer.resolve())
    return InputEntry(
        path=Path(relative).as_posix(), kind=manifest.kind, fingerprint=manifest.fingerprint, digest=manifest.digest
    )


def open_input(folder: Path, manifest: Manifest, name: str) -> tuple[Path, Manifest]:
    """Follow an input of an artifact; ARTIFACT error if the artifact there is no longer what it was built on."""
    entry = _input(folder, manifest, name)
    path = input_folder(folder, entry)
    found = open_artifact(path, entry.kind)
    check_built_on(folder, manifest, name, path, found)
    return path, found


def input_folder(folder: Path, entry: InputEntry) -> Path:
    """Where an input of the artifact at `folder` is."""
    return (folder / entry.path).resolve()


def check_built_on(folder: Path, manifest: Manifest, name: str, path: Path, found: Manifest) -> None:
    """Raise TfcliError (ARTIFACT) if the artifact at `folder` was not built on `found`, the artifact at `path`."""
    entry = _input(folder, manifest, name)
    if is_other(entry, found):
        hashed = "digest" if found.digest != entry.digest else "fingerprint"
        now, then = getattr(found, hashed)[:12], getattr(entry, hashed)[:12]
        raise TfcliError(
            f"{folder} was made from other {entry.kind} than {path} holds now",
            why=f"{hashed} {now}, {manifest.kind} was built on {then}",
            fix=f"run 'tfcli {MAKERS[manifest.kind]}' again",
            code=ExitCode.ARTIFACT,
        )


def _input(folder: Path, manifest: Manifest, name: str) -> InputEntry:
    if name not in manifest.inputs:
        raise _unreadable(folder / MANIFEST, f"it does not say from which {name} it was made")
    return manifest.inputs[name]


def _unreadable(path: Path, why: str) -> TfcliError:
    fix = "make it again with the stage's --force, or use the tfcli that made it"
    return TfcliError(f"{path} cannot be used", why=why, fix=fix, code=ExitCode.ARTIFACT)


def _provenance(started: datetime) -> dict[str, Any]:
    packages = {}
    for name in ("tfcli", "torch", "numpy", "zarr", "diffusers", "sentencepiece", "pillow"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "started": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": packages,
    }
