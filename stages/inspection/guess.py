"""Which reader fits a path of the user, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.coders.pixels import EXTENSIONS
from stages.core.errors import ExitCode, TfcliError
from stages.sources.captions import json_lines
from stages.sources.files import Found, existing, walk
from stages.sources.folder import Folder
from stages.sources.jsonl import Jsonl
from stages.sources.parquet import Parquet
from stages.sources.text import Text
from stages.sources.text_rules import printable
from stages.sources.webdataset import Webdataset


def guess_source(path: str) -> tuple[Any, str]:
    """A source for a file or folder, and the reason for people. Raises TfcliError (USAGE) where none fits."""
    found = existing(path, "source")
    if not found.is_dir():
        return _of_file(path, found)
    names = [
        entry.relative.lower() for entry in walk(found, recursive=True, follow_links=False) if isinstance(entry, Found)
    ]
    pictures = sum(name.endswith(EXTENSIONS) for name in names)
    tars = sum(name.endswith(".tar") for name in names)
    tables = sum(name.endswith(".parquet") and not name.endswith("metadata.parquet") for name in names)
    texts = sum(name.endswith(".txt") for name in names)
    if tars and tars >= pictures:
        return Webdataset(path=path), f"webdataset: {tars:,} tars in the folder"
    if pictures:
        return Folder(path=path), f"folder: {pictures:,} pictures in it"
    if tables:
        return Parquet(path=path), f"parquet: {tables:,} tables in the folder"
    if texts:
        return Text(path=path), f"text: {texts:,} .txt files in the folder and no picture"
    raise _nothing(path, f"{len(names):,} files, no picture, tar, table or text among them")


def _of_file(path: str, file: Path) -> tuple[Any, str]:
    name = file.name.lower()
    if name.endswith(".tar"):
        return Webdataset(path=path), "webdataset: it is a tar"
    if name.endswith(".parquet"):
        return Parquet(path=path), "parquet: it is a table"
    if name.endswith(".txt"):
        return Text(path=path), "text: it is a .txt"
    if name.startswith("metadata.") and name.endswith((".jsonl", ".csv")):
        return Folder(path=str(file.parent)), f"folder: {file.name} has the captions of the pictures beside it"
    if name.endswith(".jsonl"):
        first = next(iter(json_lines(file)), (0, {}))[1]
        if "parts" in first or not first:
            return Jsonl(path=path), "jsonl: interleaved documents, a line each"
        keys = ", ".join(map(str, first))[:200]
        raise _nothing(
            path, f"its first line has no parts (found {printable(keys)}); captions of a folder are metadata.jsonl"
        )
    raise _nothing(path, "its name ends with none of .tar, .parquet, .txt, .jsonl, .toml")


def _nothing(path: str, why: str) -> TfcliError:
    fix = "give a recipe, a folder of pictures or tars, or one of those files"
    return TfcliError(f"no reader fits {printable(path)}", why=why, fix=fix, code=ExitCode.USAGE)
