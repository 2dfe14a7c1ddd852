"""What is wrong about a folder of pictures beyond its documents: metadata that does not fit, files that nobody reads."""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from stages.checkup.findings import MAX_EXAMPLES, Finding
from stages.coders.pixels import EXTENSIONS
from stages.core.errors import TfcliError
from stages.sources.captions import read_metadata
from stages.sources.files import Found, walk
from stages.sources.folder import METADATA, Folder

_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx")
_PICTURES_NOT_READ = (".heic", ".heif", ".svg", ".psd", ".jxl", ".jp2", ".cr2", ".nef", ".dng", ".arw", ".ico", ".tga")
_UNPACK = (".tar", ".zip", ".gz", ".tgz", ".rar", ".7z")


def folder_findings(source: Folder) -> Iterator[Finding]:
    """Findings about the files of the folder; nothing where the folder itself is missing."""
    root = Path(source.path).expanduser()
    if not root.is_dir():
        return
    names = [item.relative for item in walk(root, source.recursive, source.follow_links) if isinstance(item, Found)]
    pictures = {name for name in names if name.lower().endswith(EXTENSIONS)}
    try:
        used = source.metadata_file(root)
    except TfcliError:  # told by reading the documents
        return
    if used is not None:
        yield from _delimiter(used)
        yield from _absent(used, source, pictures)
    yield from _not_read(names, used)


def _delimiter(path: Path) -> Iterator[Finding]:
    if path.suffix != ".csv":
        return
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = file.readline(1 << 20).strip("\r\n")
    for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
        columns = next(csv.reader([header], delimiter=sign), [])
        if "file_name" in columns and len(columns) > 1:
            what = f"{path.name} has {name} between its columns; commas are read"
            fix = "export it again with commas, or write metadata.jsonl"
            yield Finding("CSV_DELIMITER", "stops", what, fix, 1, (f"{path.name}:1: {header[:80]}",))


def _absent(path: Path, source: Folder, pictures: set[str]) -> Iterator[Finding]:
    try:
        rows = read_metadata(path, source.text_column)
    except TfcliError:  # told by reading the documents
        return
    absent = [(name, row.line) for name, row in rows.items() if name not in pictures]
    if absent:
        by_name: dict[str, str] = {os.path.basename(name): name for name in sorted(pictures)}
        other = by_name.get(os.path.basename(absent[0][0]))
        fix = "remove those lines" + (f", or write the path from the folder: {other}" if other else "")
        examples = tuple(f"{path.name}:{line}: {name}" for name, line in absent[:MAX_EXAMPLES])
        what = f"{path.name} names {len(absent):,} files that are not pictures in the folder"
        yield Finding("METADATA_ABSENT", "stops", what, fix, len(absent), examples)
    without = sorted(pictures - set(rows))
    if without:
        what = f"{len(without):,} of {len(pictures):,} pictures have no line in {path.name}"
        fix = "add lines for them, or move them away"
        yield Finding("METADATA_MISSING", "remark", what, fix, len(without), tuple(without[:MAX_EXAMPLES]))


def _not_read(names: list[str], used: Path | None) -> Iterator[Finding]:
    """Files beside the pictures that look as if they mattered."""
    stems = {name.rpartition(".")[0] for name in names if name.lower().endswith(EXTENSIONS)}
    others: Counter[str] = Counter()
    examples: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        extension = os.path.splitext(name)[1].lower()
        beside = name.rpartition(".")[0] in stems
        if extension == ".txt" and beside and used is not None:
            group = "CAPTIONS_NOT_READ"
        elif extension == ".txt" and not beside and used is None:
            group = "TEXT_ALONE"
        elif extension in _TABLES and (used is None or name != used.name):
            group = "TABLE_NOT_READ"
        elif extension in _PICTURES_NOT_READ:
            group = "FORMAT_NOT_READ"
        elif extension in _UNPACK:
            group = "ARCHIVE_NOT_READ"
        else:
            continue
        others[group] += 1
        examples[group].append(name)
    chosen = "the .txt files beside the pictures" if used is None else used.name
    texts = {
        "CAPTIONS_NOT_READ": (
            f".txt files beside pictures not read; {chosen} gives the captions",
            'set source.captions = "txt" to read them',
        ),
        "TEXT_ALONE": (
            ".txt files without a picture of that name, which nothing reads",
            "give the picture the name of its text (a.jpg, a.txt), or move them away",
        ),
        "TABLE_NOT_READ": (
            f"tables of captions not read; {chosen} gives them",
            f"name the right one {METADATA[0]}, {METADATA[1]} or {METADATA[2]}, at the top of the folder",
        ),
        "FORMAT_NOT_READ": ("pictures of formats that are not read", "convert them to PNG, JPEG or WebP"),
        "ARCHIVE_NOT_READ": (
            "archives that are not looked into",
            'unpack them; for tars use source.kind = "webdataset"',
        ),
    }
    for group, number in others.items():
        what, fix = texts[group]
        yield Finding(group, "remark", f"{number:,} {what}", fix, number, tuple(examples[group][:MAX_EXAMPLES]))
