"""Plain text files -> documents of one text segment and no picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

from pydantic import Field

from stages.core.config import Section
from stages.core.errors import TfcliError
from stages.core.reading import open_plain
from stages.core.text import printable
from stages.sources.document import Document, Omission, TextSegment, count_documents
from stages.sources.files import FoundFile, existing, files_hash, none_named, walk, without_suffix
from stages.sources.hash_cache import KnownHashes
from stages.sources.lines import lines_of
from stages.sources.text_rules import BadText, decode_text


class TextFiles(Section):
    """Text from a file, or from all .txt files of a folder."""

    kind: Literal["text"] = "text"
    """Plain text files; documents without pictures."""
    path: str
    """A text file, or a folder of .txt files."""
    name: str = Field("text", min_length=1)
    """The name of this corpus in [[tokenize.text]], by which pack.weights refers to it."""
    split: Literal["file", "paragraph", "line"] = "file"
    """What becomes one document: a file, a paragraph (ended by a blank line) or a line."""
    recursive: bool = True
    """Also read the sub-folders."""
    follow_links: bool = False
    """Follow symbolic links in the folder."""
    max_text_bytes: int = Field(16 << 20, gt=0)
    """The most bytes of one document; longer ones are left out."""

    def documents(self) -> Iterator[Document | Omission]:
        """Files sorted by the bytes of their path, parts in their order. Keys: `novel`, or `novel:12` for part 12."""
        keys: dict[str, str] = {}
        for entry in self._entries():
            if isinstance(entry, Omission):
                yield entry
                continue
            key = without_suffix(entry.relative)
            if key in keys:
                message = f"the same name as {printable(keys[key])} but for the extension"
                yield Omission(key, entry.relative, "DUPLICATE_KEY", message)
                continue
            keys[key] = entry.relative
            yield from self._file(key, entry)

    def count(self) -> tuple[int, int]:
        """Documents of text; no pictures."""
        return count_documents(self.documents())

    def identity(self, known: KnownHashes | None = None) -> Any:
        """Hash of the text files."""
        found = [entry for entry in self._entries() if isinstance(entry, FoundFile)]
        root = existing(self.path, "text")
        return {"files": files_hash(root if root.is_dir() else root.parent, [entry.relative for entry in found], known)}

    def describe(self) -> str:
        """Which text, and what a document is."""
        return f"text in {printable(self.path)}, one document a {self.split}"

    def _entries(self) -> Iterator[FoundFile | Omission]:
        root = existing(self.path, "text")
        if root.is_file():
            yield FoundFile(root.name, root.parent)
            return
        if not root.is_dir():
            raise TfcliError(
                f"not a plain file or a folder: {printable(self.path)}", fix="give a .txt file or a folder"
            )
        listing = list(walk(root, self.recursive, self.follow_links))
        entries = [item for item in listing if isinstance(item, Omission) or item.relative.lower().endswith(".txt")]
        if not any(isinstance(item, FoundFile) for item in entries):
            passed = [item for item in listing if isinstance(item, Omission)]
            raise none_named(f"no text in {printable(self.path)} (looked for txt in {len(listing):,} files)", passed)
        yield from entries

    def _file(self, key: str, entry: FoundFile) -> Iterator[Document | Omission]:
        try:
            with open_plain(entry.path) as file:
                for index, (line, part) in enumerate(self._parts(file)):
                    if self.split == "file":
                        yield self._document(key, entry.relative, part)
                    else:
                        yield self._document(f"{key}:{index}", f"{entry.relative}:{line}", part)
        except OSError as error:
            yield Omission(key, entry.relative, "PERMISSION", f"cannot be read: {error.strerror}")

    def _parts(self, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """(line at which it starts, part). Never more than max_text_bytes + 1 of a part, so that one endless line stays within
        memory."""
        if self.split == "file":
            yield 1, file.read(self.max_text_bytes + 1)
            return
        start, part = 0, b""
        for number, line in enumerate(lines_of(file, self.max_text_bytes), 1):
            content = line.strip()
            if self.split == "line":
                if content:
                    yield number, line.rstrip(b"\r\n")
            elif content:
                start = start if part else number
                part += line[: self.max_text_bytes + 1 - len(part)]
            elif part:
                yield start, part.rstrip(b"\r\n")
                part = b""
        if part:
            yield start, part.rstrip(b"\r\n")

    def _document(self, key: str, relative: str, part: bytes) -> Document | Omission:
        try:
            text = decode_text(part, self.max_text_bytes)
        except BadText as bad:
            return Omission(key, relative, bad.reason, bad.message)
        if not text.strip():
            return Omission(key, relative, "TEXT_EMPTY", "no text")
        return Document(key, (TextSegment(text),), fixed_order=True)
