"""Captions of a folder of pictures: reads metadata.jsonl, .csv or .parquet, makes a table file name -> caption."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.errors import TfcliError
from stages.core.text import printable
from stages.sources.columns import Kind, check_columns, no_column, text_of_turns
from stages.sources.columns import name_column as name_column_of
from stages.sources.files import safe_relative
from stages.sources.lines import MAX_LINE_BYTES, line_error, lines_at
from stages.sources.tables import open_table, rows_of

_NAME_COLUMN = "file_name"
_TEXT_COLUMNS = ("text", "caption")


@dataclass(frozen=True)
class Row:
    """A line of the table: the caption as written, or None where it is missing."""

    line: int
    caption: str | None


def read_metadata(path: Path, text_column: str) -> dict[str, Row]:
    """Caption rows by file name relative to the folder; an INPUT error names `path:line`. `text_column` "" looks for
    `text`, then `caption`."""
    return _read_rows(path, _NAME_COLUMN, text_column, safe_relative)


def read_captions(path: Path) -> dict[str, Row]:
    """Rows of {"key": ..., "text": ...} (or caption) by key, from .jsonl, .csv or .parquet; an INPUT error names `path:line`."""
    if path.suffix.lower() not in (".jsonl", ".csv", ".parquet"):
        raise TfcliError(f"not a file of captions: {printable(str(path))}", fix="give a .jsonl, .csv or .parquet")
    return _read_rows(path, "key", "", str)


def _read_rows(path: Path, name_column: str, text_column: str, normal: Callable[[str], str]) -> dict[str, Row]:
    """Rows by what `normal` makes of their name; a ValueError of it says why a name is refused."""
    rows: dict[str, Row] = {}
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        records = _table_records(path, name_column, text_column)
    elif suffix == ".csv":
        records = _csv_records(path, name_column, text_column)
    else:
        records = json_lines(path)
    for line, record in records:
        if not isinstance(record.get(name_column), str):
            raise line_error(path, line, f"no {name_column} (found {_names(record)})")
        try:
            name = normal(record[name_column])
        except ValueError as error:
            raise line_error(path, line, str(error)) from error
        if name in rows:
            raise line_error(path, line, f"{name_column} {printable(name)} again, first in line {rows[name].line}")
        column = _text_column(path, line, record, text_column, name_column)
        value = record[column]
        caption = value if isinstance(value, str) else text_of_turns(value)
        if caption is None and value is not None:
            raise line_error(path, line, f"{printable(column)} is not a text")
        rows[name] = Row(line, caption)
    return rows


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSONL file (.gz: compressed). Blank lines are passed over; anything else is an error that
    names the line."""
    return json_objects(lines_at(path), path)


def json_objects(lines: Iterable[bytes], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Captions from the lines of a table; `path` names it in errors."""
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE_BYTES:
            raise line_error(path, number, f"longer than {MAX_LINE_BYTES >> 20} MiB")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            value = json.loads(text) if text else None
        except UnicodeDecodeError as error:
            raise line_error(path, number, f"not UTF-8 (byte {error.start})") from error
        except json.JSONDecodeError as error:  # its own text would add "line 1" to the number of the line
            raise line_error(path, number, f"not JSON ({error.msg}, column {error.colno})") from error
        except (ValueError, RecursionError) as error:
            raise line_error(path, number, f"not JSON ({error})") from error
        if isinstance(value, dict):
            yield number, value
        elif text:
            raise line_error(path, number, "not a JSON object")


def _csv_records(path: Path, name_column: str, text_column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line at which it starts, record). A record may take several lines, and blank ones are passed over."""
    records = _csv_rows(path)
    wanted = (text_column,) if text_column else _TEXT_COLUMNS
    columns = next(records, (1, []))[1]
    if name_column not in columns or not any(name in columns for name in wanted):
        fix = "add a header line, or write commas between the columns"
        if name_column in columns and len(columns) > 1:
            fix = name_column_fix(name_column, [name for name in columns if name != name_column])
        raise TfcliError(
            f"{printable(str(path))}:1: needs the columns {name_column} and {' or '.join(wanted)}, separated by commas",
            why=f"the columns found are: {_names(columns)}",
            fix=fix,
        )
    for line, row in records:
        if len(row) != len(columns):
            raise line_error(path, line, f"not {len(columns)} columns, as in the header")
        yield line, dict(zip(columns, row, strict=True))


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the line at which each starts: an error is one of the row that was being read, not of the one before it."""
    taken = 0

    def lines() -> Iterator[str]:
        nonlocal taken
        for taken, line in enumerate(lines_at(path), 1):
            if len(line) > MAX_LINE_BYTES:
                raise line_error(path, taken, f"longer than {MAX_LINE_BYTES >> 20} MiB")
            try:
                yield line.decode("utf-8-sig" if taken == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise line_error(path, taken, f"not UTF-8 (byte {error.start})") from error

    reader = csv.reader(lines(), strict=True)
    while True:
        start = taken + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise line_error(path, start, f"not CSV ({error}); the record starts here") from error
        if row:
            yield start, row


def table_rows(path: Path, wanted: Mapping[str, Kind]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a parquet table, counted from 1, with the wanted columns that are there; a row group at a time. Raises TfcliError
    where a column has another type than it is read for."""
    table = open_table(path)
    check_columns(path, table.schema_arrow, wanted)
    columns = [name for name in table.schema_arrow.names if name in wanted]
    number = 0
    for group in range(table.num_row_groups):
        for row in rows_of(path, table, group, columns):
            number += 1
            yield number, row


def _table_records(path: Path, name_column: str, text_column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    wanted = (text_column,) if text_column else _TEXT_COLUMNS
    schema = open_table(path).schema_arrow
    for names, kind in (((name_column,), "name"), (wanted, "text")):
        if not set(names) & set(schema.names):
            raise no_column(path, names, _option(name_column) if kind == "text" else "", schema, "text", (name_column,))
    chosen = next(name for name in wanted if name in schema.names)
    return table_rows(path, {name_column: "name", chosen: "text"})


def name_column_fix(name_column: str, candidates: list[str]) -> str:
    """The fix for a table of captions without a column of text."""
    return name_column_of(_option(name_column), candidates)


def _option(name_column: str) -> str:
    """The setting that names the column of texts: a file of captions by key has none."""
    return "source.text_column" if name_column == _NAME_COLUMN else ""


def _text_column(path: Path, line: int, record: dict[str, Any], wanted: str, name_column: str) -> str:
    for name in (wanted,) if wanted else _TEXT_COLUMNS:
        if name in record:
            return name
    texts = [name for name, value in record.items() if isinstance(value, str) and name != name_column]
    what = f"no {wanted or ' or '.join(_TEXT_COLUMNS)} (found {_names(record)})"
    fix = name_column_fix(name_column, texts) if texts else "correct or remove that line"
    raise line_error(path, line, what, fix)


def _names(columns: Any) -> str:
    return printable(", ".join(map(str, columns)))[:200] or "none"
