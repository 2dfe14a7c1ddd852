"""What is wrong about a folder of pictures beyond its documents: metadata that does not fit, files that nobody reads."""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from stages.coders.pixels import EXTENSIONS
from stages.core.errors import TfcliError
from stages.core.reading import open_plain
from stages.doctor.findings import MAX_EXAMPLES, Finding
from stages.sources.captions import read_metadata
from stages.sources.files import FoundFile, Names, walk
from stages.sources.folder import METADATA, SIDECARS, Folder

_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx")
_PICTURES_NOT_READ = (".heic", ".heif", ".svg", ".psd", ".jxl", ".jp2", ".cr2", ".nef", ".dng", ".arw", ".ico", ".tga")
# what img2dataset writes next to each folder of pictures (counts, a record of each download), and the Hub's facts of a data set
_RECORDS = re.compile(r"(^|/)(\d{5,}(_stats\.json|\.parquet)|dataset_infos?\.json)$")
_UNPACK = (".tar", ".zip", ".gz", ".tgz", ".rar", ".7z")


def folder_findings(source: Folder) -> Iterator[Finding]:
    """Findings about the files of the folder; nothing where the folder itself is missing."""
    root = Path(source.path).expanduser()
    if not root.is_dir():
        return
    listing = list(walk(root, source.recursive, source.follow_links))
    names = [item.relative for item in listing if isinstance(item, FoundFile)]
    pictures = {name for name in names if name.lower().endswith(EXTENSIONS)}
    try:
        used = source.metadata_files(listing)
    except TfcliError:  # reported when the documents are read
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
        below = _folder_of(table)
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
        examples = tuple(f"{table}:{line}: {name}" for table, line, name in absent[:MAX_EXAMPLES])
        what = f"{chosen} names {len(absent):,} files that are not pictures in the folder"
        fix = _fix_of(absent[0][0], absent[0][2], names)
        yield Finding("METADATA_ABSENT", "stops", what, fix, len(absent), examples)
    elsewhere = {name for name in pictures if not any(name.startswith(_folder_of(table)) for table in used)}
    if elsewhere and used:
        what = f"{len(elsewhere):,} of {len(pictures):,} pictures are in folders without a table of captions"
        fix = f"write a {METADATA[0]} for them, or read one folder alone: source.path={root / _folder_of(used[0])}"
        yield Finding(
            "METADATA_ELSEWHERE", "remark", what, fix, len(elsewhere), tuple(sorted(elsewhere)[:MAX_EXAMPLES])
        )
    if without:
        what = f"{len(without):,} of {len(pictures):,} pictures have no line in {chosen}"
        fix = "add lines for them, or move them away"
        yield Finding("METADATA_MISSING", "remark", what, fix, len(without), tuple(sorted(without)[:MAX_EXAMPLES]))


def _folder_of(table: str) -> str:
    """The beginning of all paths that a table can name."""
    return table[: table.rfind("/") + 1]


def _fix_of(table: str, name: str, names: Names) -> str:
    """The fix for a table that names a picture which is not where it says: paths begin at the folder of the table."""
    below, last = _folder_of(table), os.path.basename(name)
    if (there := names.find(f"{below}{last}")) is not None:
        return f"write paths from the folder of the table: {there[len(below) :]}, not {name}"
    if names.find(name) is not None:
        return f"move {table} to the folder that its paths begin at"
    return "remove those lines, or add the files"


def _not_read(names: list[str], used: list[str]) -> Iterator[Finding]:
    """Files next to the pictures that look as if they mattered."""
    stems = {_stem(name) for name in names if name.lower().endswith(EXTENSIONS)}
    text_stems = {_stem(name) for name in names if name.lower().endswith(SIDECARS)}
    others: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        if group := _group_of(name, stems, text_stems, used):
            others[group].append(name)
    texts = _texts(", ".join(used[:3]) or "the .txt files next to the pictures")
    for group, found in others.items():
        what, fix = texts[group]
        yield Finding(group, "remark", f"{len(found):,} {what}", fix, len(found), tuple(found[:MAX_EXAMPLES]))


def _stem(name: str) -> str:
    return name.rpartition(".")[0].lower()


def _group_of(name: str, stems: set[str], text_stems: set[str], used: list[str]) -> str:
    """The code of the finding about a file that is not read; "" for one of no interest. stems: of pictures."""
    extension = os.path.splitext(name)[1].lower()
    has_picture = _stem(name) in stems
    if extension in SIDECARS and has_picture and used:
        return "CAPTIONS_NOT_READ"
    if extension == ".txt" and not has_picture and not used:
        return "TEXT_ALONE"
    if extension == ".json" and has_picture:
        return "" if used or _stem(name) in text_stems else "JSON_NOT_READ"  # "": its record, next to its caption
    if name.rpartition("/")[2].lower() in METADATA and used and name not in used:
        return "METADATA_BELOW"
    if extension in _TABLES and name not in used and not _RECORDS.search(name):
        return "TABLE_NOT_READ"
    if extension in _PICTURES_NOT_READ:
        return "FORMAT_NOT_READ"
    return "ARCHIVE_NOT_READ" if extension in _UNPACK else ""


def _texts(chosen: str) -> dict[str, tuple[str, str]]:
    """What is found and its fix, by code. chosen: what gives the captions."""
    return {
        "CAPTIONS_NOT_READ": (
            f".txt files next to pictures not read; {chosen} gives the captions",
            'set source.captions = "txt" to read them',
        ),
        "TEXT_ALONE": (
            ".txt files without a picture of that name, which nothing reads",
            "give the picture the name of its text (a.jpg, a.txt), or move them away",
        ),
        "JSON_NOT_READ": (
            ".json files next to pictures, which a folder of pictures does not read",
            "write each caption to a .txt of the same name, or all of them to one metadata.jsonl",
        ),
        "METADATA_BELOW": (
            f"tables of captions not read; {chosen} gives them",
            "move the table that is read away, or set source.path to the folder of the other one",
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
