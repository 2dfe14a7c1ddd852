"""Units of work: what a stage records of each, in the folder that grows and in the sealed artifact.

<partial>/units/<unit>.json   one finished unit: its record, files with their hashes, and a sum over the record
<artifact>/units.jsonl        the records of all units, one a line, so that a damaged artifact is repaired unit by unit
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from stages.artifacts.manifest import FileEntry, Manifest
from stages.core.config import first_problem
from stages.core.errors import ExitCode, TfcliError
from stages.core.files import read_jsonl, read_record, write_record
from stages.core.hashing import hash_file, hash_value
from stages.core.reading import inside

UNITS = "units"
SEALED_UNITS = "units.jsonl"
RECIPE = "recipe.json"  # of any artifact: the whole resolved recipe, neutral keys included; not part of the digest
_OLD_KEYS = frozenset({"facts", "files"})  # of a record before it had a sum


class UnitRecord(BaseModel):
    """A finished unit. facts: what the stage wants to know of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    unit: str
    facts: dict[str, Any]
    files: list[FileEntry]

    @field_validator("unit")
    @classmethod
    def _plain(cls, unit: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", unit):
            raise ValueError("not the name of a unit")
        return unit

    def is_whole(self, folder: Path) -> bool:
        """Whether its files below `folder` have the bytes that were recorded."""
        return all(has_bytes(folder, entry) for entry in self.files)


def write_unit(folder: Path, name: str, record: dict[str, Any], files: list[FileEntry]) -> None:
    """Record that a unit is finished; its files are on disk."""
    write_record(folder / UNITS / f"{name}.json", {"facts": record, "files": [entry.model_dump() for entry in files]})


def read_unit(path: Path) -> UnitRecord | None:
    """The record of a unit. None where there is none, and where it is damaged: the unit is made again."""
    try:
        return _validated(path.stem, read_record(path, _OLD_KEYS), path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except TfcliError as error:
        if error.code != ExitCode.ARTIFACT:
            raise
        return None


def unit_records(folder: Path) -> list[UnitRecord]:
    """The records of a growing folder, by name. Raises TfcliError (ARTIFACT) where one is damaged."""
    found = []
    for path in sorted((folder / UNITS).glob("*.json")):
        record = read_unit(path)
        if record is None:
            fix = f"delete {path}: the unit is made again"
            raise TfcliError(f"{path} is damaged", why="its sum differs", fix=fix, code=ExitCode.ARTIFACT)
        found.append(record)
    return found


def sealed_rows(records: list[UnitRecord]) -> list[dict[str, Any]]:
    """The lines of `units.jsonl`."""
    return [record.model_dump() for record in records]


def sealed_units(folder: Path, manifest: Manifest) -> Iterator[UnitRecord]:
    """The units of a sealed artifact; none where their file is missing or is not the one that was sealed.

    Raises TfcliError (ARTIFACT) where a record names a file outside of the folder.
    """
    entry = next((entry for entry in manifest.files if entry.path == SEALED_UNITS), None)
    if entry is None or not has_bytes(folder, entry):
        return
    for row in read_jsonl(folder / SEALED_UNITS):
        yield _validated("", row, folder / SEALED_UNITS)


def has_bytes(folder: Path, entry: FileEntry) -> bool:
    """Whether a file below `folder` is as it was recorded. Raises TfcliError (ARTIFACT) where its name leads out of it."""
    path = inside(folder, entry.path)
    try:
        return path.stat().st_size == entry.bytes and hash_file(path) == entry.sha256
    except FileNotFoundError:
        return False


def _validated(name: str, value: Any, path: Path) -> UnitRecord:
    try:
        return UnitRecord.model_validate({"unit": name, **value} if name else value)
    except (ValidationError, TypeError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else f": {error}"
        raise TfcliError(f"{path} is damaged", why=why, code=ExitCode.ARTIFACT) from error


def read_plan(path: Path) -> dict[str, Any] | None:
    """The plan of a growing folder; None for one that is not of ours: it has to give its own fingerprint."""
    try:
        plan = read_record(path, frozenset({"fingerprint", "facts", "take_over"}))
    except (OSError, TfcliError):
        return None
    ours = isinstance(plan.get("facts"), dict) and plan.get("fingerprint") == hash_value(plan["facts"])
    return plan if ours else None
