"""Text in tables: reads .jsonl, .jsonl.gz and .parquet, a row a document of one text segment and no picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.core.config import Section, neutral
from stages.core.errors import ExitCode, TfcliError
from stages.core.text import printable
from stages.sources.captions import json_lines, table_rows
from stages.sources.columns import Kind, name_column, no_column, text_of_turns
from stages.sources.document import Document, Omission, TextSegment, count_documents
from stages.sources.files import existing, files_hash, files_named
from stages.sources.hash_cache import KnownHashes
from stages.sources.lines import line_error
from stages.sources.tables import open_table
from stages.sources.text_rules import BadText, clean_text

_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


class TextTable(Section):
    """Rows of a file, or of all such files of a folder, each a document of text. Files are read row by row, never whole."""

    kind: Literal["table"] = "table"
    """Text in the rows of .jsonl, .jsonl.gz or .parquet files."""
    path: str
    """A file, or a folder that is searched with its sub-folders."""
    name: str = Field("text", min_length=1)
    """The name of this corpus, by which pack.weights refers to it."""
    text_column: str = "text"
    """The column with the text: strings, or turns of a conversation, which become lines `role: content`."""
    id_column: str = ""
    """The column with the key of each document. Empty, or where a row has none: the number of the row."""
    group_column: str = ""
    """The column with the group of each document; documents of one group are held out together. Empty, or where a row has none:
    each document is its own group."""
    follow_links: bool = neutral(False)  # its files, by name and content, are in the fingerprint
    """Follow symbolic links in the folder."""
    max_text_bytes: int = Field(16 << 20, gt=0)
    """The most bytes of one document; longer ones are left out."""

    def documents(self) -> Iterator[Document | Omission]:
        """Rows in their order, files by the bytes of their names. Keys: `part-0/12` for row (or line) 12, or `part-0/ID`, and
        where that is null `part-0/row 12`."""
        root, names, passed = self._files()
        yield from passed
        for name in names:
            # a name in capitals keeps its suffix: a.jsonl may be next to it
            stem = next((name.removesuffix(suffix) for suffix in reversed(_SUFFIXES) if name.endswith(suffix)), name)
            for line, row in self._rows(root / name):
                yield self._document(root / name, stem, line, row)

    def count(self) -> tuple[int, int]:
        """Documents of text; no pictures."""
        return count_documents(self.documents())

    def identity(self, known: KnownHashes | None = None) -> Any:
        """Hash of the files."""
        root, names, _ = self._files()
        return {"files": files_hash(root, names, known)}

    def describe(self) -> str:
        """Which files, and which column."""
        _, names, _ = self._files()
        return f"text in {printable(self.path)}, column {printable(self.text_column)} of {len(names):,} files"

    def _files(self) -> tuple[Path, list[str], list[Omission]]:
        path = existing(self.path, "text table")
        if path.is_dir():
            return path, *files_named(self.path, path, _SUFFIXES, "text tables", self.follow_links)
        if not path.is_file() or not path.name.lower().endswith(_SUFFIXES):
            raise TfcliError(
                f"not a text table: {printable(self.path)}", fix=f"give a {', '.join(_SUFFIXES)}", code=ExitCode.USAGE
            )
        return path.parent, [path.name], []

    def _rows(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        if path.suffix.lower() != ".parquet":
            return json_lines(path)
        schema = open_table(path).schema_arrow
        if self.text_column not in schema.names:
            raise no_column(path, (self.text_column,), "text_column", schema, "text")
        wanted: dict[str, Kind] = {name: "key" for name in (self.id_column, self.group_column) if name}
        return table_rows(path, {**wanted, self.text_column: "text"})

    def _document(self, path: Path, stem: str, line: int, row: dict[str, Any]) -> Document | Omission:
        missing = [name for name in (self.text_column, self.id_column, self.group_column) if name and name not in row]
        if missing:
            found = printable(", ".join(map(str, row)))[:200] or "none"
            texts = [name for name, value in row.items() if isinstance(value, str)]
            fix = name_column("text_column", texts) if missing[0] == self.text_column and texts else "correct that line"
            raise line_error(path, line, f"no {printable(missing[0])} (found {found})", fix)
        named, group = (row[name] if name else None for name in (self.id_column, self.group_column))
        number = f"row {line}" if self.id_column else line  # "row": another row may have the number as its id
        key = f"{stem}/{number if named is None else named}"
        where = f"{path.name}:{line}"
        value = row[self.text_column]
        text = value if isinstance(value, str) else text_of_turns(value)
        if text is None and isinstance(value, list | dict):
            what = f"{printable(self.text_column)} holds a {type(value).__name__} that is no turns of role and content"
            raise line_error(path, line, what, "name another column with text_column, or write the texts as strings")
        if text is None:
            return Omission(key, where, "TEXT_MISSING", f"{printable(self.text_column)} is not a text")
        try:
            text = clean_text(text, self.max_text_bytes)
            clean_text(key, self.max_text_bytes)
        except BadText as bad:
            return Omission(key, where, bad.reason, bad.message)
        if not text.strip():
            return Omission(key, where, "TEXT_EMPTY", "no text")
        return Document(key, (TextSegment(text),), group=None if group is None else str(group), fixed_order=True)
