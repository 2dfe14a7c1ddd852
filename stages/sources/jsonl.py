"""Interleaved documents: reads JSONL, a document a line, and makes documents of text and pictures in a fixed order.

{"id": "page-7", "parts": [{"text": "First, "}, {"image": "img/7a.png"}, {"text": " then ..."}], "group": "optional"}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.core.config import Section, neutral
from stages.core.errors import ExitCode, TfcliError
from stages.core.text import printable
from stages.sources.captions import json_lines
from stages.sources.document import Document, FileSpan, ImageSegment, Omission, Segment, TextSegment
from stages.sources.files import existing, file_below, files_hash
from stages.sources.hash_cache import KnownHashes
from stages.sources.lines import line_error
from stages.sources.text_rules import BadText, clean_text


class Jsonl(Section):
    """Interleaved documents in a JSONL file; picture paths are relative to it and stay inside its folder."""

    kind: Literal["jsonl"] = "jsonl"
    """Documents of text and pictures in a fixed order, one JSON object a line."""
    path: str
    """The .jsonl file (.gz: compressed)."""
    follow_links: bool = neutral(False)
    """Also read pictures that a symbolic link leads to outside of the file's folder."""
    max_text_bytes: int = Field(16 << 20, gt=0)
    """The most bytes of one text of a document; a document with a longer one is left out."""

    def documents(self) -> Iterator[Document | Omission]:
        """The lines in their order. A wrong line is an error; text that cannot be tokenized omits its document."""
        path = self._file()
        lines: dict[str, int] = {}
        for number, record in json_lines(path):
            key, parts, group = _checked(path, number, record)
            if key in lines:
                raise line_error(path, number, f"id {printable(key)} again, first in line {lines[key]}")
            lines[key] = number
            try:
                segments = tuple(self._segments(path, number, parts))
            except BadText as bad:
                yield Omission(key, f"{path.name}:{number}", bad.reason, bad.message)
                continue
            if segments:
                yield Document(key, segments, group=group, fixed_order=True)
            else:
                yield Omission(key, f"{path.name}:{number}", "DOCUMENT_EMPTY", "no text and no picture")

    def count(self) -> tuple[int, int]:
        """Lines, and the pictures that they name; nothing is looked up."""
        documents = pictures = 0
        for _, record in json_lines(self._file()):
            parts = record.get("parts")
            documents += 1
            pictures += (
                sum("image" in part for part in parts if isinstance(part, dict)) if isinstance(parts, list) else 0
            )
        return documents, pictures

    def identity(self, known: KnownHashes | None = None) -> Any:
        """Hash of the file and of the pictures that it names."""
        path = self._file()
        names: dict[str, None] = {path.name: None}
        for document in self.documents():
            if isinstance(document, Document):
                names.update({image.name: None for image in document.images})
        return {"files": files_hash(path.parent, names, known)}

    def describe(self) -> str:
        """Which file."""
        return f"interleaved documents in {printable(self.path)}"

    def _file(self) -> Path:
        path = existing(self.path, "documents file")
        if not path.is_file():
            raise TfcliError(f"not a plain file: {printable(self.path)}", fix="give the .jsonl", code=ExitCode.USAGE)
        return path

    def _segments(self, path: Path, number: int, parts: list[Any]) -> Iterator[Segment]:
        for part in parts:
            if not isinstance(part, dict) or len(part) != 1 or not {"text", "image"} & set(part):
                raise line_error(path, number, 'every part is {"text": "..."} or {"image": "path"}')
            ((name, value),) = part.items()
            if not isinstance(value, str):
                raise line_error(path, number, f"{name} is not a string")
            if name == "image":
                yield _picture(path, number, value, self.follow_links)
            elif value:
                yield TextSegment(clean_text(value, self.max_text_bytes))


def _checked(path: Path, number: int, record: dict[str, Any]) -> tuple[str, list[Any], str | None]:
    if unknown := sorted(set(record) - {"id", "parts", "group"}):
        raise line_error(path, number, f"unknown key {printable(unknown[0])} (known: id, parts, group)")
    key, parts, group = record.get("id"), record.get("parts"), record.get("group")
    if not isinstance(key, str) or not key:
        raise line_error(path, number, "id is missing or not a string")
    if not isinstance(parts, list):
        raise line_error(path, number, "parts is missing or not a list")
    if group is not None and not isinstance(group, str):
        raise line_error(path, number, "group is not a string")
    return key, parts, group


def _picture(path: Path, number: int, name: str, follow_links: bool) -> ImageSegment:
    try:
        relative = file_below(path.parent, name, follow_links)
    except ValueError as error:
        raise line_error(path, number, str(error)) from error
    except FileNotFoundError as error:
        fix = "correct or remove that line"
        fix += ", or --set source.follow_links=true" if "leads out" in str(error) else ""
        raise line_error(path, number, f"image {error}", fix) from error
    return ImageSegment(relative, FileSpan(path.parent / relative))
