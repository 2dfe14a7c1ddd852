"""Parquet tables (extra `parquet`): caption pairs, interleaved documents and edit pairs, by the names of their columns.

pairs        image, text (or caption)                           a row is a picture and its text
interleaved  texts, images: lists of one length                 at each where a text or a picture, the other is null (OBELICS)
edits        input_image, edit_prompt, edited_image             a picture, an instruction, the changed picture

A text may be turns of a conversation (see columns.py); where `texts` holds turns, a row is its pictures, then their text.
Columns of other types are refused before a row is read. A picture is bytes, a struct of `bytes` and `path` (Hugging Face),
or a path below the folder of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.core.config import Section, neutral
from stages.core.errors import TfcliError
from stages.core.text import printable
from stages.sources.columns import Kind, check_columns, no_column, text_of_turns
from stages.sources.document import (
    MAX_READ_BYTES,
    Document,
    FileSpan,
    ImageSegment,
    Omission,
    Segment,
    TextSegment,
    caption_pair,
    count_documents,
)
from stages.sources.files import existing, file_below, files_hash, files_named
from stages.sources.hash_cache import KnownHashes
from stages.sources.tables import file_names, open_table, rows_without_bytes
from stages.sources.text_rules import BadText, clean_text

Layout = Literal["pairs", "interleaved", "edits"]
_TEXT = ("text", "caption")
_KINDS: dict[Layout, tuple[Kind, ...]] = {
    "pairs": ("picture", "text"),
    "interleaved": ("texts", "pictures"),
    "edits": ("picture", "text", "picture"),
}
_BEFORE, _EDIT, _AFTER = (
    ("input_image", "original_image"),
    ("edit_prompt", "instruction", "edit"),
    ("edited_image", "output_image"),
)


@dataclass(frozen=True)
class Cell:
    """A picture's bytes in a table: row `row` of row group `group`, at `where` of the list where the column holds lists."""

    path: Path
    group: int
    column: str
    row: int
    where: int | None = None

    def read(self) -> bytes:
        """The bytes, at most MAX_READ_BYTES + 1. OSError where the table cannot be read."""
        try:
            value = _column(str(self.path), self.group, self.column)[self.row].as_py()
        except (ValueError, IndexError, TfcliError) as error:  # pyarrow's errors are ValueErrors
            raise OSError(str(error)) from error
        if self.where is not None:
            value = value[self.where]
        data = value["bytes"] if isinstance(value, dict) else value
        return bytes(data[: MAX_READ_BYTES + 1])


class Parquet(Section):
    """Rows of one table, or of all .parquet files of a folder."""

    kind: Literal["parquet"] = "parquet"
    """Parquet tables of pictures and text; needs the extra `parquet`."""
    path: str
    """A .parquet file, or a folder that is searched with its sub-folders."""
    layout: Literal["auto", "pairs", "interleaved", "edits"] = "auto"
    """What a row is: a picture and its caption ("pairs"), lists `texts` and `images` of one length ("interleaved"), or a picture,
    an instruction and the changed picture ("edits"). "auto": by the names of the columns."""
    image_column: str = "image"
    """The column with the picture, for "pairs"."""
    text_column: str = ""
    """The column with the caption, for "pairs". Empty: `text`, or else `caption`."""
    follow_links: bool = neutral(False)  # its files, by name and content, are in the fingerprint
    """Follow symbolic links in the folder, and those of pictures that a row names by path."""
    missing_caption: Literal["skip", "empty"] = "skip"
    """What becomes of a picture without a caption ("pairs"): left out, or a document of the picture alone."""
    max_text_bytes: int = Field(65_536, gt=0)
    """The most bytes of one text; rows with a longer one are left out."""

    def documents(self) -> Iterator[Document | Omission]:
        """Rows in their order, tables by the bytes of their names. Keys: `table/12` for row 12, from 0."""
        root, names, passed = self._tables()
        yield from passed
        for name in names:
            table = open_table(root / name)
            layout = self._layout(table)
            columns = self._columns(root / name, table, layout)
            first = 0
            for group in range(table.num_row_groups):
                rows = rows_without_bytes(root / name, table, group, columns)
                for row in range(len(rows)):
                    key = f"{name.removesuffix('.parquet')}/{first + row}"
                    where = _RowOfTable(root / name, f"{name}:{first + row}", group, row, self.follow_links)
                    yield self._document(key, where, layout, columns, rows[row])
                first += len(rows)

    def count(self) -> tuple[int, int]:
        """Rows from the tables' own metadata; pictures: one a row, two for edits, listed for interleaved rows."""
        root, names, _ = self._tables()
        rows = sum(open_table(root / name).metadata.num_rows for name in names)
        layout = self._layout(open_table(root / names[0]))
        if layout == "interleaved":
            return rows, count_documents(self.documents())[1]
        return rows, rows * (2 if layout == "edits" else 1)

    def identity(self, known: KnownHashes | None = None) -> Any:
        """Hash of the tables, and of the pictures that they name by path. No picture in a table is read for it."""
        root, names, _ = self._tables()
        named: dict[str, None] = dict.fromkeys(names)
        for name in names:
            table, folder = open_table(root / name), (root / name).parent
            layout = self._layout(table)
            columns = self._columns(root / name, table, layout)
            pictures = {"pairs": columns[:1], "interleaved": columns[1:], "edits": (columns[0], columns[-1])}[layout]
            for value in file_names(root / name, table, pictures):
                with suppress(ValueError, FileNotFoundError):  # its row is left out
                    named[str((folder / file_below(folder, value, self.follow_links)).relative_to(root))] = None
        return {"files": files_hash(root, named, known)}

    def describe(self) -> str:
        """Which tables, which layout, and by which columns it was chosen."""
        root, names, _ = self._tables()
        table = open_table(root / names[0])
        layout = self._layout(table)
        columns = ", ".join(self._columns(root / names[0], table, layout))
        return f"{len(names):,} tables at {printable(self.path)}, {layout} from the columns {printable(columns)}"

    def _tables(self) -> tuple[Path, list[str], list[Omission]]:
        path = existing(self.path, "parquet file or folder")
        if not path.is_dir():
            return path.parent, [path.name], []
        return path, *files_named(self.path, path, ".parquet", "tables", self.follow_links)

    def _layout(self, table: Any) -> Layout:
        if self.layout != "auto":
            return self.layout
        names = set(table.schema_arrow.names)
        if {"texts", "images"} <= names:
            return "interleaved"
        if names & set(_BEFORE) and names & set(_AFTER):
            return "edits"
        return "pairs"

    def _columns(self, path: Path, table: Any, layout: Layout) -> tuple[str, ...]:
        """The names of the columns that are read, in the order of the docstring."""
        wanted: tuple[tuple[str, ...], ...] = {
            "pairs": ((self.image_column,), (self.text_column,) if self.text_column else _TEXT),
            "interleaved": (("texts",), ("images",)),
            "edits": (_BEFORE, _EDIT, _AFTER),
        }[layout]
        there = table.schema_arrow.names
        kinds = _KINDS[layout]
        found = []
        for names, kind in zip(wanted, kinds, strict=True):
            name = next((name for name in names if name in there), None)
            if name is None:
                option = "source.image_column" if kind == "picture" else "source.text_column"
                raise no_column(path, names, option if layout == "pairs" else "", table.schema_arrow, kind)
            found.append(name)
        check_columns(path, table.schema_arrow, dict(zip(found, kinds, strict=True)))
        return tuple(found)

    def _document(
        self, key: str, where: _RowOfTable, layout: Layout, columns: tuple[str, ...], row: dict[str, Any]
    ) -> Document | Omission:
        try:
            if layout == "pairs":
                return self._pair(key, where, columns, row)
            if layout == "interleaved":
                segments = tuple(self._interleaved(where, row[columns[0]], row[columns[1]]))
            else:
                before, edit, after = columns
                text = self._text(row[edit])
                if not text:
                    return Omission(key, where.name, "CAPTION_MISSING", "no instruction")
                pictures = [where.picture(name, row[name]) for name in (before, after)]
                segments = (pictures[0], TextSegment(text), pictures[1])
        except BadText as bad:
            return Omission(key, where.name, bad.reason, bad.message)
        if not segments:
            return Omission(key, where.name, "DOCUMENT_EMPTY", "no text and no picture")
        return Document(key, segments, fixed_order=True)

    def _pair(self, key: str, where: _RowOfTable, columns: tuple[str, ...], row: dict[str, Any]) -> Document | Omission:
        picture, text = where.picture(columns[0], row[columns[0]]), self._text(row[columns[1]])
        return caption_pair(key, where.name, text, picture, self.missing_caption)

    def _interleaved(self, where: _RowOfTable, texts: Any, images: Any) -> Iterator[Segment]:
        if isinstance(texts, list) and texts and isinstance(texts[0], dict):
            yield from (where.picture("images", image, number) for number, image in enumerate(images or ()))
            if text := self._text(texts):
                yield TextSegment(text)
            return
        if not isinstance(texts, list) or not isinstance(images, list) or len(texts) != len(images):
            raise BadText("ROW_BROKEN", "texts and images are not lists of one length")
        for number, (text, image) in enumerate(zip(texts, images, strict=True)):
            if text is not None and image is not None:
                raise BadText("ROW_BROKEN", f"a text and a picture at where {number}")
            if image is not None:
                yield where.picture("images", image, number)
            elif text:
                yield TextSegment(clean_text(text, self.max_text_bytes))

    def _text(self, value: Any) -> str | None:
        if value is None:
            return None
        text = value if isinstance(value, str) else text_of_turns(value)
        if text is None:
            raise BadText("ROW_BROKEN", "the text column holds no text")
        return clean_text(text, self.max_text_bytes).strip()


@dataclass(frozen=True)
class _RowOfTable:
    """Where a row is. name: for people, `table.parquet:12`."""

    path: Path
    name: str
    group: int
    row: int
    follow_links: bool

    def picture(self, column: str, value: Any, number: int | None = None) -> ImageSegment:
        """value: of the cell, with True in place of bytes. Raises BadText where there is no picture."""
        name = f"{self.name}/{column}" + ("" if number is None else f"/{number}")
        if isinstance(value, str):
            try:
                file = self.path.parent / file_below(self.path.parent, value, self.follow_links)
            except ValueError as error:
                raise BadText("IMAGE_PATH", str(error)) from error
            except FileNotFoundError as error:
                raise BadText("IMAGE_MISSING", str(error)) from error
            return ImageSegment(name, FileSpan(file))
        if value is not True:
            raise BadText("IMAGE_MISSING", f"no picture in {column}")
        return ImageSegment(name, Cell(self.path, self.group, column, self.row, number))


@lru_cache(maxsize=2)
def _column(path: str, group: int, column: str) -> Any:
    """A column of a row group; kept, since pictures of a group are read one after another."""
    return open_table(Path(path)).read_row_group(group, columns=[column]).column(column)
