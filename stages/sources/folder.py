"""A folder of pictures -> caption pairs: captions from metadata.jsonl, .csv or .parquet, or a .txt next to each picture.

A metadata file at the top is used for all pictures. Where there is none, one in a sub-folder is used for the pictures below it
(of several, the nearest above a picture), and its names are relative to its own folder. All other pictures have a .txt, or else
a .caption, of their own name. Names and suffixes are compared without case where that leaves one candidate.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.coders.pixels import EXTENSIONS
from stages.core.config import Section
from stages.core.errors import ExitCode, TfcliError
from stages.core.reading import open_plain
from stages.core.text import printable
from stages.sources.captions import Row, read_metadata
from stages.sources.document import Document, FileSpan, ImageSegment, Omission, caption_pair
from stages.sources.files import FoundFile, Names, existing_folder, files_hash, none_named, scan, walk, without_suffix
from stages.sources.hash_cache import KnownHashes
from stages.sources.lines import line_error
from stages.sources.text_rules import BadText, clean_text, decode_text

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_SIDECARS = (".txt", ".caption")


class Folder(Section):
    """Pictures and captions in a folder."""

    kind: Literal["folder"] = "folder"
    """A folder of picture files with captions."""
    path: str
    """The folder."""
    captions: Literal["auto", "txt", "metadata"] = "auto"
    """Where captions are: in name.txt (or name.caption) next to name.jpg ("txt"), or in metadata.jsonl, .csv or .parquet with
    `file_name` and a text ("metadata"). "auto": the metadata files where there are any, else name.txt or
    name.caption."""
    text_column: str = ""
    """The column of the metadata file with the caption. Empty: `text`, or else `caption`."""
    recursive: bool = True
    """Also read the sub-folders."""
    follow_links: bool = False
    """Follow symbolic links in the folder."""
    missing_caption: Literal["skip", "empty"] = "skip"
    """What becomes of a picture without a caption: left out, or a document of the picture alone."""
    max_text_bytes: int = Field(65_536, gt=0)
    """The most bytes of a caption; pictures with a longer one are left out."""

    def documents(self) -> Iterator[Document | Omission]:
        """A caption pair per picture, sorted by the bytes of its path; its key is the path without the extension."""
        root = self._root()
        listing = list(walk(root, self.recursive, self.follow_links))
        pictures = self._pictures(listing)
        names = Names(pictures)
        tables = [_Table(root, name, self.text_column, names) for name in self.metadata_files(listing)]
        sidecars = Names(name for name in _names(listing) if name.lower().endswith(_SIDECARS))
        keys: dict[str, str] = {}
        for entry in listing:
            if isinstance(entry, Omission):
                yield entry
            elif entry.relative in pictures:
                key = without_suffix(entry.relative)
                if key in keys:
                    message = f"the same name as {printable(keys[key])} but for the extension"
                    yield Omission(key, entry.relative, "DUPLICATE_KEY", message)
                    continue
                keys[key] = entry.relative
                yield self._document(key, entry, sidecars, _nearest(tables, entry.relative))

    def count(self) -> tuple[int, int]:
        """The pictures in the folder, with or without a caption."""
        pictures = self._pictures(list(walk(self._root(), self.recursive, self.follow_links)))
        return len(pictures), len(pictures)

    def first_pictures(self, count: int) -> list[FileSpan]:
        """Some of the pictures, in no order; captions are not read and the walk ends with the last of them."""
        found = scan(self._root(), self.recursive, self.follow_links)
        files = (entry for entry in found if isinstance(entry, FoundFile) and _is_picture(entry.relative))
        return [FileSpan(entry.path) for entry in islice(files, count)]

    def identity(self, known: KnownHashes | None = None) -> Any:
        """Hash of the pictures and of the files that their captions come from."""
        root = self._root()
        listing = list(walk(root, self.recursive, self.follow_links))
        metadata = self.metadata_files(listing)
        found = _names(listing)
        pictures = [name for name in found if _is_picture(name)]
        stems = Names(without_suffix(name) for name in pictures if not _above(metadata, name))
        texts = [name for name in found if name.lower().endswith(_SIDECARS) and stems.find(without_suffix(name))]
        read = [*pictures, *texts, *metadata]
        return {"files": files_hash(root, read, known)}

    def describe(self) -> str:
        """Which folder, and where the captions come from."""
        root = self._root()
        chosen = self.metadata_files(list(walk(root, self.recursive, self.follow_links)))
        shown = "a .txt file next to each picture" if not chosen else printable(", ".join(chosen[:3]))
        more = f" and {len(chosen) - 3:,} more" if len(chosen) > 3 else ""
        return f"pictures in {printable(self.path)}, captions from {shown}{more}"

    def _root(self) -> Path:
        return existing_folder(self.path, "images folder", "source.path")

    def metadata_files(self, listing: list[FoundFile | Omission]) -> list[str]:
        """The files that captions come from, relative to the folder: one at the top, else those of sub-folders."""
        by_folder: dict[str, str] = {}
        found = [name for name in _names(listing) if name.rpartition("/")[2].lower() in METADATA]
        # of several in one folder the first of METADATA
        for name in sorted(found, key=lambda name: METADATA.index(name.rpartition("/")[2].lower())):
            by_folder.setdefault(name.rpartition("/")[0], name)
        if self.captions == "metadata" and not by_folder:
            raise TfcliError(
                f"no {' or '.join(METADATA)} in {printable(self.path)}",
                fix='write one, or set captions = "txt"',
                code=ExitCode.USAGE,
            )
        if self.captions == "txt":
            return []
        return [by_folder[""]] if "" in by_folder else sorted(by_folder.values())

    def _pictures(self, listing: list[FoundFile | Omission]) -> set[str]:
        names = _names(listing)
        pictures = {name for name in names if _is_picture(name)}
        if not pictures:
            kinds = ", ".join(extension[1:] for extension in EXTENSIONS)
            raise none_named(
                f"no images in {printable(self.path)} (looked for {kinds} in {len(names):,} files)",
                [item for item in listing if isinstance(item, Omission)],
                "check the path" if self.recursive else "check the path, or set recursive = true",
            )
        return pictures

    def _document(self, key: str, entry: FoundFile, sidecars: Names, table: _Table | None) -> Document | Omission:
        if not os.access(entry.path, os.R_OK):
            return Omission(key, entry.relative, "PERMISSION", "the picture may not be read")
        try:
            if table is None:
                caption = self._sidecar(entry, key, sidecars)
            else:
                row = table.rows.get(entry.relative)
                caption = None if row is None or row.caption is None else clean_text(row.caption, self.max_text_bytes)
        except BadText as bad:
            return Omission(key, entry.relative, bad.reason, bad.message)
        except OSError as error:
            return Omission(key, entry.relative, "PERMISSION", f"the caption cannot be read: {error.strerror}")
        caption = None if caption is None else caption.strip()
        picture = ImageSegment(entry.relative, FileSpan(entry.path))
        return caption_pair(key, entry.relative, caption, picture, self.missing_caption)

    def _sidecar(self, entry: FoundFile, key: str, sidecars: Names) -> str | None:
        name = next((found for suffix in _SIDECARS if (found := sidecars.find(key + suffix))), None)
        if name is None:
            return None
        with open_plain(entry.root / name) as file:
            return decode_text(file.read(self.max_text_bytes + 1), self.max_text_bytes)


class _Table:
    """A metadata file: rows by the names of pictures as on the disk. Raises TfcliError (INPUT) for a name that is none."""

    def __init__(self, root: Path, name: str, text_column: str, pictures: Names) -> None:
        self.folder = name.rpartition("/")[0]
        self.rows: dict[str, Row] = {}
        path = root / name
        for named, row in read_metadata(path, text_column).items():
            found = pictures.find(f"{self.folder}/{named}" if self.folder else named)
            if found is None:
                raise line_error(path, row.line, f"file_name {printable(named)} is not a picture in the folder")
            if found in self.rows:
                what = f"file_name {printable(named)} is the picture of line {self.rows[found].line} again"
                raise line_error(path, row.line, what)
            self.rows[found] = row


def _nearest(tables: list[_Table], picture: str) -> _Table | None:
    above = [table for table in tables if not table.folder or picture.startswith(f"{table.folder}/")]
    return max(above, key=lambda table: len(table.folder), default=None)


def _above(metadata: list[str], picture: str) -> bool:
    """Whether the captions of a picture come from one of these files."""
    folders = (name.rpartition("/")[0] for name in metadata)
    return any(not folder or picture.startswith(f"{folder}/") for folder in folders)


def _names(listing: list[FoundFile | Omission]) -> list[str]:
    return [item.relative for item in listing if isinstance(item, FoundFile)]


def _is_picture(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)
