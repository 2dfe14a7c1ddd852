"""Captions of a folder of pictures: reads metadata.jsonl, .csv or .parquet, makes a table file name -> caption."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.core.errors import ExitCode, TfcliError
from stages.core.system import read_failure
from stages.sources.files import reading, safe_relative
from stages.sources.tables import open_table, rows_of
from stages.sources.text_rules import printable

MAX_LINE_BYTES = 64 << 20
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
    if path.suffix not in (".jsonl", ".csv", ".parquet"):
        raise TfcliError(f"not a file of captions: {printable(str(path))}", fix="give a .jsonl, .csv or .parquet")
    return _read_rows(path, "key", "", str)


def _read_rows(path: Path, name_column: str, text_column: str, normal: Callable[[str], str]) -> dict[str, Row]:
    """Rows by what `normal` makes of their name; a ValueError of it says why a name is refused."""
    rows: dict[str, Row] = {}
    if path.suffix == ".parquet":
        records = table_rows(path, [name_column, *((text_column,) if text_column else _TEXT_COLUMNS)])
    elif path.suffix == ".csv":
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
        column = _text_column(path, line, record, text_column)
        caption = record[column]
        if caption is not None and not isinstance(caption, str):
            raise line_error(path, line, f"{printable(column)} is not a text")
        rows[name] = Row(line, caption)
    return rows


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSONL file (.gz: compressed). Blank lines are passed over; anything else is an error that
    names the line."""
    return json_objects(_lines(path), path)


def json_objects(lines: Iterable[bytes], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The same of lines that are read already; `path` names them in errors."""
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


def _lines(path: Path) -> Iterator[bytes]:
    """Lines, cut behind MAX_LINE_BYTES + 1."""
    if path.suffix != ".gz":
        with reading(path), path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                yield line
        return
    try:
        with gzip.open(path) as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                yield line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TfcliError(f"{printable(str(path))} is damaged", why=str(error), fix="fetch the file again") from error
    except OSError as error:
        raise read_failure(Path(printable(str(path))), error, ExitCode.INPUT) from error


def line_error(path: Path, line: int, what: str) -> TfcliError:
    """An INPUT error at a line of a user's file."""
    return TfcliError(f"{printable(str(path))}:{line}: {what}", fix="correct or remove that line")


def _csv_records(path: Path, name_column: str, text_column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    with reading(path), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            columns = list(reader.fieldnames or [])
            wanted = (text_column,) if text_column else _TEXT_COLUMNS
            if name_column not in columns or not any(name in columns for name in wanted):
                raise TfcliError(
                    f"{printable(str(path))}:1: needs the columns {name_column} and {' or '.join(wanted)}, "
                    f"separated by commas",
                    why=f"the columns found are: {_names(columns)}",
                    fix="add a header line, or write commas between the columns",
                )
            for record in reader:
                if None in record or None in record.values():
                    raise line_error(path, reader.line_num, f"not {len(columns)} columns, as in the header")
                yield reader.line_num, dict(record)
        except csv.Error as error:
            raise line_error(path, reader.line_num, f"not CSV ({error})") from error
        except UnicodeDecodeError as error:
            raise line_error(path, reader.line_num + 1, f"not UTF-8 (byte {error.start})") from error


def table_rows(path: Path, wanted: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a parquet table, counted from 1, with the wanted columns that are there; a row group at a time."""
    table = open_table(path)
    columns = [name for name in table.schema_arrow.names if name in wanted]
    number = 0
    for group in range(table.num_row_groups):
        for row in rows_of(path, table, group, columns):
            number += 1
            yield number, row


def _text_column(path: Path, line: int, record: dict[str, Any], wanted: str) -> str:
    for name in (wanted,) if wanted else _TEXT_COLUMNS:
        if name in record:
            return name
    raise line_error(path, line, f"no {wanted or ' or '.join(_TEXT_COLUMNS)} (found {_names(record)})")


def _names(columns: Any) -> str:
    return printable(", ".join(map(str, columns)))[:200] or "none"
