"""What is wrong about a folder of pictures beyond its documents: metadata that does not fit, files that nobody reads."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from stages.coders.pixels import EXTENSIONS
from stages.core.errors import TfcliError
from stages.core.reading import open_plain
from stages.doctor.findings import MAX_EXAMPLES, Finding
from stages.sources.captions import read_metadata
from stages.sources.files import Found, Names, walk
from stages.sources.folder import METADATA, Folder

_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx")
_PICTURES_NOT_READ = (".heic", ".heif", ".svg", ".psd", ".jxl", ".jp2", ".cr2", ".nef", ".dng", ".arw", ".ico", ".tga")
# what img2dataset writes next to the .txt that it makes of each picture: counts, a record of each download
_STATS = re.compile(r"(^|/)\d{5}(_stats\.json|\.parquet)$|(^|/)\d{5}/\d{9}\.json$")
_UNPACK = (".tar", ".zip", ".gz", ".tgz", ".rar", ".7z")


def folder_findings(source: Folder) -> Iterator[Finding]:
    """Findings about the files of the folder; nothing where the folder itself is missing."""
    root = Path(source.path).expanduser()
    if not root.is_dir():
        return
    listing = list(walk(root, source.recursive, source.follow_links))
    names = [item.relative for item in listing if isinstance(item, Found)]
    pictures = {name for name in names if name.lower().endswith(EXTENSIONS)}
    try:
        used = source.metadata_files(listing)
    except TfcliError:  # told by reading the documents
        return
    for name in used:
        yield from _delimiter(root / name)
    yield from _absent(root, used, source, pictures)
    yield from _not_read(names, used)


def _delimiter(path: Path) -> Iterator[Finding]:
    if path.suffix != ".csv":
        return
    with open_plain(path) as file:
        header = file.readline(1 << 20).decode("utf-8-sig", "replace").strip("\r\n")
    for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")):
        columns = next(csv.reader([header], delimiter=sign), [])
        if "file_name" in columns and len(columns) > 1:
            what = f"{path.name} has {name} between its columns; commas are read"
            fix = "export it again with commas, or write metadata.jsonl"
            yield Finding("CSV_DELIMITER", "stops", what, fix, 1, (f"{path.name}:1: {header[:80]}",))


def _absent(root: Path, used: list[str], source: Folder, pictures: set[str]) -> Iterator[Finding]:
    names = Names(pictures)
    absent: list[tuple[str, int, str]] = []
    without: set[str] = set()
    for table in used:
        folder = table.rpartition("/")[0]
        below = f"{folder}/" if folder else ""
        try:
            rows = read_metadata(root / table, source.text_column)
        except TfcliError:  # reported by reading the documents
            return
        found = {name: names.find(f"{below}{name}") for name in rows}
        absent += [(table, rows[name].line, name) for name, there in found.items() if there is None]
        without |= {name for name in pictures if name.startswith(below)}
        without -= {there for there in found.values() if there is not None}
    chosen = ", ".join(used[:3])
    if absent:
        by_name: dict[str, str] = {os.path.basename(name): name for name in sorted(pictures)}
        other = by_name.get(os.path.basename(absent[0][2]))
        fix = "remove those lines" + (f", or write the path from the folder of the table: {other}" if other else "")
        examples = tuple(f"{table}:{line}: {name}" for table, line, name in absent[:MAX_EXAMPLES])
        what = f"{chosen} names {len(absent):,} files that are not pictures in the folder"
        yield Finding("METADATA_ABSENT", "stops", what, fix, len(absent), examples)
    if without:
        what = f"{len(without):,} of {len(pictures):,} pictures have no line in {chosen}"
        fix = "add lines for them, or move them away"
        yield Finding("METADATA_MISSING", "remark", what, fix, len(without), tuple(sorted(without)[:MAX_EXAMPLES]))


def _not_read(names: list[str], used: list[str]) -> Iterator[Finding]:
    """Files beside the pictures that look as if they mattered."""
    stems = {name.rpartition(".")[0].lower() for name in names if name.lower().endswith(EXTENSIONS)}
    others: Counter[str] = Counter()
    examples: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        extension = os.path.splitext(name)[1].lower()
        beside = name.rpartition(".")[0].lower() in stems
        if extension in (".txt", ".caption") and beside and used:
            group = "CAPTIONS_NOT_READ"
        elif extension == ".txt" and not beside and not used:
            group = "TEXT_ALONE"
        elif extension in _TABLES and name not in used and not _STATS.search(name):
            group = "TABLE_NOT_READ"
        elif extension in _PICTURES_NOT_READ:
            group = "FORMAT_NOT_READ"
        elif extension in _UNPACK:
            group = "ARCHIVE_NOT_READ"
        else:
            continue
        others[group] += 1
        examples[group].append(name)
    chosen = ", ".join(used[:3]) or "the .txt files next to the pictures"
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
