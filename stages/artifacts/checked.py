"""The files of a sealed artifact, read with a look at the sums in its manifest. Every reader of an artifact uses this."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stages.artifacts.arrays import Array, read_flat
from stages.artifacts.manifest import MAKERS, FileEntry, Manifest
from stages.core.errors import ExitCode, TfcliError
from stages.core.files import read_jsonl
from stages.core.hashing import hash_file
from stages.core.reading import unreadable

Fields = Mapping[str, tuple[type, ...]]
NO_FIELDS: Fields = MappingProxyType({})


class CheckedFiles:
    """The files that a manifest lists. All methods raise TfcliError (ARTIFACT) where a file is not as it was sealed."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @cached_property
    def _entries(self) -> dict[str, FileEntry]:
        return {entry.path: entry for entry in self.manifest.files}

    def has(self, name: str) -> bool:
        return name in self._entries

    def names(self, below: str) -> list[str]:
        """The files below a folder of the artifact."""
        return [name for name in self._entries if name.startswith(f"{below}/")]

    def sums(self, below: str) -> dict[str, str]:
        """The sha256 of the files below a folder of the artifact, by their names in it."""
        return {name[len(below) + 1 :]: self._entries[name].sha256 for name in self.names(below)}

    def path(self, name: str) -> Path:
        """The path of a file, after a look at its sum: for a reader that opens the file itself."""
        path = self.folder / name
        try:
            found = hash_file(path)
        except OSError as error:
            raise unreadable(path, error) from error
        self._compare(name, found)
        return path

    def below(self, name: str) -> Path:
        """The path of a folder, after a look at the sums of all files below it."""
        for file in self.names(name):
            self.path(file)
        return self.folder / name

    def flat(self, name: str) -> Array:
        """A small array."""
        return read_flat(self.below(name))

    def lines(self, name: str, required: Fields = NO_FIELDS, optional: Fields = NO_FIELDS) -> Iterator[dict[str, Any]]:
        """The rows of a file with one JSON object a line. It is hashed while it is read: what differs is an error at a line
        that is not such an object or after the last line, so a reader that makes something takes all of them.

        required, optional: fields by name, with the types that they may have. A row without a required one, or with a field of
        another type, is damaged: its sum may be right and a program of somebody else have written it.
        """
        digest = hashlib.sha256()
        for number, row in enumerate(read_jsonl(self.folder / name, digest.update), 1):
            wrong = _wrong_field(row, required, optional)
            if wrong:
                what = f"{self.folder / name}:{number} is damaged"
                why = f"not a row that tfcli writes: {wrong}"
                raise TfcliError(what, why=why, fix=self._fix(), code=ExitCode.ARTIFACT)
            yield row
        self._compare(name, digest.hexdigest())

    def _compare(self, name: str, found: str) -> None:
        entry = self._entries.get(name)
        if entry is not None and entry.sha256 == found:
            return
        wanted = "does not list it" if entry is None else f"says {entry.sha256[:12]}"
        raise TfcliError(
            f"{self.folder / name} is damaged",
            why=f"its sha256 is {found[:12]}, the manifest {wanted}",
            fix=self._fix(),
            code=ExitCode.ARTIFACT,
        )

    def _fix(self) -> str:
        return f"restore the file, or run 'tfcli {MAKERS[self.manifest.kind]} --force' to make it again"


def _wrong_field(row: Any, required: Fields, optional: Fields) -> str:
    """What is wrong with a row; "" where nothing is. A bool is no int."""
    if not isinstance(row, dict):
        return f"a {type(row).__name__}, not an object"
    for fields in (required, optional):
        for name, types in fields.items():
            if name not in row:
                if fields is required:
                    return f"without {name}"
            elif type(row[name]) not in types:
                return f"{name} is a {type(row[name]).__name__}"
    return ""
