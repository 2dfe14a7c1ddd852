"""Lines of a user's file, plain or .gz: ended by LF, CR LF or CR alike, numbered as an editor numbers them, bounded."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from stages.core.errors import ExitCode, TfcliError
from stages.core.reading import NotPlainFile, open_plain
from stages.core.text import printable

MAX_LINE_BYTES = 64 << 20
_PIECE = 1 << 20


def lines_of(file: BinaryIO, limit: int = MAX_LINE_BYTES) -> Iterator[bytes]:
    """The lines with their ends; of one longer than `limit` the first limit + 1 bytes, so that an endless line stays within
    memory."""
    line = bytearray()
    after_cr = False
    while piece := file.readline(_PIECE):
        if after_cr and piece.startswith(b"\n"):  # cut between the two bytes of a line's end
            piece = piece[1:]
        after_cr = piece.endswith(b"\r")
        for part in piece.splitlines(keepends=True):  # of bytes: LF, CR LF and CR alone
            line += part[: max(0, limit + 1 - len(line))]
            if part.endswith((b"\n", b"\r")):
                yield bytes(line)
                line.clear()
    if line:
        yield bytes(line)


def lines_at(path: Path) -> Iterator[bytes]:
    """The lines of a file of records. An INPUT error names the line behind which a .gz is damaged."""
    number = 0
    try:
        with open_plain(path) as plain:
            if path.suffix.lower() != ".gz":
                yield from lines_of(plain)
                return
            with gzip.open(plain) as unpacked:
                for line in lines_of(cast(BinaryIO, unpacked)):
                    yield line
                    number += 1
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        what = f"{printable(str(path))} is damaged behind line {number:,}"
        raise TfcliError(what, why=str(error), fix="fetch the file again") from error
    except NotPlainFile as error:
        what = f"not a plain file: {printable(str(path))}"
        raise TfcliError(what, why=str(error.strerror), fix="give a file", code=ExitCode.USAGE) from error
    except OSError as error:
        what = f"{printable(str(path))} cannot be read behind line {number:,}"
        raise TfcliError(
            what, why=error.strerror or str(error), fix="check the mode of the file and its disk"
        ) from error


def line_error(path: Path, line: int, what: str, fix: str = "correct or remove that line") -> TfcliError:
    """An INPUT error at a line of a user's file."""
    return TfcliError(f"{printable(str(path))}:{line}: {what}", fix=fix)
