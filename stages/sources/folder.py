"""A folder of pictures: captions from metadata.jsonl, .csv or .parquet, or a .txt beside each picture -> caption pairs."""

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
from stages.sources.captions import Row, read_metadata
from stages.sources.document import Document, FileSpan, ImageSegment, Omission, caption_pair
from stages.sources.files import Found, existing_folder, files_hash, scan, walk, without_suffix
from stages.sources.known import KnownHashes
from stages.sources.lines import line_error
from stages.sources.text_rules import BadText, check_text, decode_text, printable

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


class Folder(Section):
    """Pictures and captions in a folder."""

    kind: Literal["folder"] = "folder"
    path: str
    captions: Literal["auto", "txt", "metadata"] = "auto"  # auto: the metadata file if there is one, else .txt
    text_column: str = ""  # of the metadata file; "": text, or else caption
    recursive: bool = True
    follow_links: bool = False
    missing_caption: Literal["skip", "empty"] = "skip"  # empty: a document of the picture alone
    max_text_bytes: int = Field(65_536, gt=0)

    def documents(self) -> Iterator[Document | Omission]:
        """A caption pair per picture, sorted by the bytes of its path; its key is the path without the extension."""
        root = self._root()
        listing = list(walk(root, self.recursive, self.follow_links))
        pictures = self._pictures(listing)
        metadata = self.metadata_file(root)
        rows = None if metadata is None else read_metadata(metadata, self.text_column)
        if metadata is not None and rows is not None:
            _check_names(metadata, rows, pictures)
        sidecars = {entry.relative: entry for entry in listing if isinstance(entry, Found)}
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
                yield self._document(key, entry, sidecars, rows)

    def count(self) -> tuple[int, int]:
        """The pictures in the folder, with or without a caption."""
        pictures = self._pictures(list(walk(self._root(), self.recursive, self.follow_links)))
        return len(pictures), len(pictures)

    def first_pictures(self, count: int) -> list[FileSpan]:
        """Some of the pictures, in no order; captions are not read and the walk ends with the last of them."""
        found = scan(self._root(), self.recursive, self.follow_links)
        files = (entry for entry in found if isinstance(entry, Found) and _is_picture(entry.relative))
        return [FileSpan(entry.path) for entry in islice(files, count)]

    def identity(self, known: KnownHashes | None = None) -> Any:
        """Hash of the pictures and of the files that their captions come from."""
        root = self._root()
        metadata = self.metadata_file(root)
        found = [entry.relative for entry in walk(root, self.recursive, self.follow_links) if isinstance(entry, Found)]
        read = [name for name in found if _is_picture(name)]
        if metadata is None:
            stems = {without_suffix(name) for name in read}
            read += [name for name in found if name.endswith(".txt") and without_suffix(name) in stems]
        else:
            read.append(metadata.name)
        return {"files": files_hash(root, read, known)}

    def describe(self) -> str:
        """Which folder, and where the captions come from."""
        metadata = self.metadata_file(self._root())
        chosen = "a .txt file beside each picture" if metadata is None else metadata.name
        return f"pictures in {printable(self.path)}, captions from {chosen}"

    def _root(self) -> Path:
        return existing_folder(self.path, "images folder", "source.path")

    def metadata_file(self, root: Path) -> Path | None:
        """The file that captions come from, or None: a .txt beside each picture."""
        paths = [root / name for name in METADATA if self.follow_links or not (root / name).is_symlink()]
        found = [path for path in paths if path.is_file()]
        if self.captions == "metadata" and not found:
            raise TfcliError(
                f"no {' or '.join(METADATA)} in {printable(self.path)}",
                fix='write one, or set captions = "txt"',
                code=ExitCode.USAGE,
            )
        return found[0] if found and self.captions != "txt" else None

    def _pictures(self, listing: list[Found | Omission]) -> set[str]:
        names = [entry.relative for entry in listing if isinstance(entry, Found)]
        pictures = {name for name in names if _is_picture(name)}
        if not pictures:
            kinds = ", ".join(extension[1:] for extension in EXTENSIONS)
            raise TfcliError(
                f"no images in {printable(self.path)} (looked for {kinds} in {len(names):,} files)",
                fix="check the path" if self.recursive else "check the path, or set recursive = true",
            )
        return pictures

    def _document(
        self, key: str, entry: Found, sidecars: dict[str, Found], rows: dict[str, Row] | None
    ) -> Document | Omission:
        if not os.access(entry.path, os.R_OK):
            return Omission(key, entry.relative, "PERMISSION", "the picture may not be read")
        try:
            if rows is None:
                caption = self._sidecar(sidecars.get(f"{key}.txt"))
            else:
                row = rows.get(entry.relative)
                caption = None if row is None or row.caption is None else check_text(row.caption, self.max_text_bytes)
        except BadText as bad:
            return Omission(key, entry.relative, bad.reason, bad.message)
        except OSError as error:
            return Omission(key, entry.relative, "PERMISSION", f"the caption cannot be read: {error.strerror}")
        caption = None if caption is None else caption.strip()
        picture = ImageSegment(entry.relative, FileSpan(entry.path))
        return caption_pair(key, entry.relative, caption, picture, self.missing_caption)

    def _sidecar(self, entry: Found | None) -> str | None:
        if entry is None:
            return None
        with entry.path.open("rb") as file:
            return decode_text(file.read(self.max_text_bytes + 1), self.max_text_bytes)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _check_names(metadata: Path, rows: dict[str, Row], pictures: set[str]) -> None:
    for name, row in rows.items():
        if name not in pictures:
            raise line_error(metadata, row.line, f"file_name {printable(name)} is not a picture in the folder")
