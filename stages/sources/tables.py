"""Files of Parquet (extra `parquet`), a row group at a time: rows with or without their pictures, and files that they name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.core.errors import ExitCode, TfcliError
from stages.core.system import read_failure
from stages.core.text import printable
from stages.sources.columns import holds_turns


def open_table(path: Path) -> Any:
    """pyarrow's ParquetFile. Raises TfcliError: ENVIRONMENT without pyarrow, INPUT for what is no table."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise TfcliError(
            "parquet files need pyarrow", fix="pip install 'tfcli[parquet]'", code=ExitCode.ENVIRONMENT
        ) from error
    if not path.is_file():  # reading a pipe would wait for ever
        raise TfcliError(f"not a plain file: {printable(str(path))}", fix="give a .parquet", code=ExitCode.USAGE)
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        _refuse_unreadable(path, error)
        raise TfcliError(
            f"not a parquet file: {printable(str(path))}", why=_first_line(error), fix="fetch it again"
        ) from error


def rows_of(path: Path, table: Any, group: int, columns: list[str]) -> list[dict[str, Any]]:
    """The rows of a group. Raises TfcliError (INPUT) where it is damaged."""
    with _damage(path, group):
        rows: list[dict[str, Any]] = table.read_row_group(group, columns=columns).to_pylist()
    return rows


def rows_without_bytes(path: Path, table: Any, group: int, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of a group; in place of a picture's bytes True, so that a list of documents stays small. Raises TfcliError
    (INPUT) where it is damaged."""
    with _damage(path, group):
        read = table.read_row_group(group, columns=list(columns)).combine_chunks()
        cells = {name: _slim(read.column(name).combine_chunks()) for name in columns}
    return [dict(zip(cells, values, strict=True)) for values in zip(*cells.values(), strict=True)]


def file_names(path: Path, table: Any, columns: tuple[str, ...]) -> Iterator[str]:
    """What the columns of pictures may name: texts, and the `path` of structs where not each has `bytes`. Of these, nothing
    else is read. Raises TfcliError (INPUT) where the table is damaged."""
    for group in range(table.num_row_groups):
        for column in columns:
            leaf = _leaf_of_names(table, group, column)
            if leaf is None:
                continue
            with _damage(path, group):
                yield from _texts(table.read_row_group(group, columns=[leaf]).column(column).combine_chunks())


def _leaf_of_names(table: Any, group: int, column: str) -> str | None:
    """The part of a column, as Parquet calls it, that holds names of files; None where none can be there."""
    import pyarrow as pa

    row_group = table.metadata.row_group(group)
    leaves = [row_group.column(number) for number in range(row_group.num_columns)]
    nulls: dict[
        str, tuple[int | None, int]
    ] = {}  # of each part: how many, None where the table does not say; and of how many
    for leaf in leaves:
        if leaf.path_in_schema == column or leaf.path_in_schema.startswith(f"{column}."):
            known = leaf.statistics is not None and leaf.statistics.has_null_count
            nulls[leaf.path_in_schema] = (leaf.statistics.null_count if known else None, leaf.num_values)
    kind = table.schema_arrow.field(column).type
    while pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return None
    if not pa.types.is_struct(kind):
        return next(iter(nulls), None)
    names, bytes_ = (
        min((name for name in nulls if name.endswith(end)), key=len, default=None) for end in (".path", ".bytes")
    )
    if names is None or nulls[names][0] == nulls[names][1] or (bytes_ is not None and nulls[bytes_][0] == 0):
        return None
    return names


def _texts(array: Any) -> Iterator[str]:
    """All texts in an array of texts, or of structs or lists of such."""
    import pyarrow as pa

    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_struct(array.type):
        array = array.field(0) if pa.types.is_struct(array.type) else array.flatten()
    return (value for value in array.to_pylist() if isinstance(value, str))


def _slim(array: Any) -> list[Any]:
    """The values of an array; of a picture its path, or True where its bytes are there."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if holds_turns(array.type):
        turns: list[Any] = array.to_pylist()
        return turns
    if pa.types.is_struct(array.type):
        names = array.type.names
        paths = _slim(pc.struct_field(array, "path")) if "path" in names else [None] * len(array)
        bytes_ = pc.is_valid(pc.struct_field(array, "bytes")).to_pylist() if "bytes" in names else [False] * len(array)
        return [True if there else path for there, path in zip(bytes_, paths, strict=True)]
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        flat, ends = _slim(array.flatten()), pc.list_value_length(array).to_pylist()
        lists: list[Any] = []
        start = 0
        for length in ends:
            lists.append(None if length is None else flat[start : start + length])
            start += length or 0
        return lists
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return [True if there else None for there in pc.is_valid(array).to_pylist()]
    values: list[Any] = array.to_pylist()
    return values


@contextmanager
def _damage(path: Path, group: int) -> Iterator[None]:
    """Turn what pyarrow says of damaged pages into an INPUT error that names the file and the row group."""
    import pyarrow as pa

    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as error:
        _refuse_unreadable(path, error)
        what = f"{printable(str(path))} is damaged in row group {group}"
        raise TfcliError(what, why=_first_line(error), fix="fetch the file again, or leave it out") from error


def _refuse_unreadable(path: Path, error: Exception) -> None:
    """Raise an INPUT error with the system's word where the file may be whole and cannot be read; pyarrow has an OSError
    without a number for damage."""
    if isinstance(error, OSError) and error.errno is not None:
        raise read_failure(Path(printable(str(path))), error, ExitCode.INPUT) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
