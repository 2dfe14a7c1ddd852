"""Which reader a path calls for: looks at names and first lines, makes a source and says why."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from stages.coders.pixels import EXTENSIONS
from stages.core.errors import ExitCode, TfcliError
from stages.core.reading import open_plain
from stages.core.text import printable
from stages.sources.files import FoundFile, existing, walk
from stages.sources.folder import Folder
from stages.sources.jsonl import Jsonl
from stages.sources.mix import SingleSource
from stages.sources.parquet import Parquet
from stages.sources.text import TextFiles
from stages.sources.webdataset import Webdataset

_LINE = 1 << 20  # bytes of a first line that are looked at


@dataclass(frozen=True)
class Guess:
    """A source for a path, and why this one."""

    source: SingleSource
    why: str


def guess_source(path: str) -> Guess:
    """The reader for a folder, a file or a pattern of tars. Raises TfcliError: USAGE where nothing is there, INPUT where no
    reader fits."""
    if "{" in path and not os.path.exists(path):
        return Guess(Webdataset(path=path), "a pattern in braces names tars")
    found = existing(path, "source")
    return _of_folder(path, found) if found.is_dir() else _of_file(path, found)


def _of_folder(path: str, folder: Path) -> Guess:
    # links too: the reader that is chosen says how to follow them
    names = [
        (entry.relative if isinstance(entry, FoundFile) else entry.path).lower()
        for entry in walk(folder, recursive=True, follow_links=False)
        if isinstance(entry, FoundFile) or entry.reason == "SKIPPED_LINK"
    ]
    counts: Counter[str] = Counter()
    for name in names:
        extension = os.path.splitext(name)[1]
        counts["pictures" if extension in EXTENSIONS else extension] += 1
    pictures = counts["pictures"]
    if pictures and pictures >= counts[".tar"]:
        return Guess(Folder(path=path), f"{pictures:,} picture files in it")
    if counts[".tar"]:
        return Guess(Webdataset(path=path), f"{counts['.tar']:,} .tar files in it")
    if counts[".parquet"]:
        return Guess(Parquet(path=path), f"{counts['.parquet']:,} .parquet files in it")
    lists = [name for name in names if name.endswith(".jsonl")]
    if lists:
        only = next(item for item in sorted(folder.rglob("*.jsonl")) if item.is_file())
        if len(lists) == 1:
            return _of_file(str(only), only)
        raise _no_reader(path, f"{len(lists):,} .jsonl files in it", "name one of them")
    if counts[".txt"]:
        return Guess(TextFiles(path=path), f"{counts['.txt']:,} .txt files in it, and no picture")
    kinds = ", ".join(
        f"{number:,} {extension or 'without an extension'}" for extension, number in counts.most_common(5)
    )
    raise _no_reader(path, f"it holds {kinds}" if kinds else "it is empty", "give pictures, tars, tables or text")


def _of_file(path: str, file: Path) -> Guess:
    extension = file.suffix.lower()
    if extension == ".tar":
        return Guess(Webdataset(path=path), "a .tar file")
    if extension == ".parquet" and file.name != "metadata.parquet":
        return Guess(Parquet(path=path), "a .parquet file")
    if extension == ".jsonl" and file.name != "metadata.jsonl" and "file_name" not in _keys(file):
        return Guess(Jsonl(path=path), "a .jsonl file, a document a line")
    if extension in (".csv", ".tsv", ".jsonl", ".parquet"):
        return Guess(
            Folder(path=str(file.parent)), f"{printable(file.name)} holds captions for the pictures next to it"
        )
    if extension in (".txt", ".md"):
        return Guess(TextFiles(path=path), f"a {extension} file")
    if extension in EXTENSIONS:
        raise _no_reader(path, "it is a single picture", "give the folder")
    if extension in (".gz", ".tgz", ".zip", ".bz2", ".xz", ".zst"):
        raise _no_reader(path, "it is compressed", "unpack it first")
    raise _no_reader(
        path, f"no reader for {extension or 'a file without an extension'}", "see docs/data.md for what a source may be"
    )


def _keys(file: Path) -> set[str]:
    """The keys of the first line of a JSONL file."""
    try:
        with open_plain(file) as opened:
            value = json.loads(opened.readline(_LINE))
    except (OSError, ValueError, RecursionError):
        return set()
    return set(value) if isinstance(value, dict) else set()


def _no_reader(path: str, why: str, fix: str) -> TfcliError:
    return TfcliError(f"no source can read {printable(path)}", why=why, fix=fix, code=ExitCode.INPUT)
