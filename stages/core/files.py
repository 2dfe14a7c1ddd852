"""Files that are whole or absent: written into a temporary file, flushed, renamed, and the folder flushed. Records with a sum
over their own content."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stages.core.errors import ExitCode, TfcliError
from stages.core.hashing import hash_value
from stages.core.reading import MAX_SMALL_BYTES, open_plain, read_bounded, unreadable
from stages.core.system import write_failure

_SUM = "sha256"  # the key of a record's own sum


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename inside it survives a power cut. Some network file systems have no such
    operation: they say so, and nothing can be done."""
    with disk_errors(folder):
        try:
            _sync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise


def sync_file(path: Path) -> None:
    """Flush a file that another library wrote."""
    with disk_errors(path):
        _sync(path)


def sync_up(paths: Iterable[Path], top: Path) -> None:
    """Flush the files, and the entries of every folder from theirs up to and including `top`, each once."""
    folders: dict[Path, None] = {}
    for path in paths:
        sync_file(path)
        for folder in path.parents:
            folders[folder] = None
            if folder == top:
                break
    for folder in folders:
        sync_folder(folder)


def apply_umask(paths: Iterable[Path]) -> None:
    """Give files that a library wrote for their owner alone the mode of any other new file. The mode is read off a new file:
    the umask cannot be asked for without changing it, which other threads would see."""
    for path in paths:
        with disk_errors(path):
            probe = _temporary(path)
            descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            finally:
                os.close(descriptor)
                probe.unlink(missing_ok=True)
            path.chmod(mode)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(path: Path) -> Path:
    """Another name in the same folder, which the sweep after a kill knows."""
    return path.with_name(f".{path.name}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}")


class GrowingFile:
    """A file that is written piece by piece and takes the place of `path` when it is whole: `with GrowingFile(path) as file`,
    or `keep` and `discard` by hand. A reader sees the old bytes or the new ones, never half of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = _temporary(path)
        with disk_errors(path):
            self._file = self._temporary.open("wb")

    def write(self, data: bytes) -> None:
        with disk_errors(self.path):
            self._file.write(data)

    def keep(self) -> None:
        """Flush it to disk and put it in place."""
        try:
            with disk_errors(self.path):
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()  # a network disk may refuse here what it took before
                os.replace(self._temporary, self.path)
                sync_folder(self.path.parent)
        finally:
            self.discard()

    def discard(self) -> None:
        """Leave no trace of it; once it is kept, nothing. A disk that refuses even this has been reported already."""
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # of a full disk: what was not flushed is not wanted
            self._file.close()

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.keep()
        else:
            self.discard()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name in the same folder for another library to write to; behind the block that file has the mode of the umask, is
    flushed, and takes the place of `path`. Where the block fails nothing of it stays."""
    temporary = _temporary(path)
    try:
        yield temporary
        apply_umask([temporary])
        sync_file(temporary)
        with disk_errors(path):
            os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` by `data`."""
    with GrowingFile(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, text.encode("utf-8", "surrogatepass"))


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value a line, atomically; rows are taken one by one and not kept."""
    with GrowingFile(path) as file:
        for row in rows:
            file.write(json_line(row))


def json_line(row: Any) -> bytes:
    """A line of a JSONL file."""
    return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "surrogatepass")


def read_json(path: Path, limit: int = MAX_SMALL_BYTES) -> Any:
    """The value of a JSON file of ours. FileNotFoundError where there is none.

    Raises TfcliError: ARTIFACT for what is no JSON, no plain file or too large; ENVIRONMENT where it cannot be read.
    """
    try:
        return json.loads(read_bounded(path, limit))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise TfcliError(f"{path} is damaged", why=f"not JSON: {error}", code=ExitCode.ARTIFACT) from error


def write_record(path: Path, value: dict[str, Any]) -> None:
    """Write `value` as JSON with a sum over itself, atomically; `read_record` checks it."""
    write_json(path, with_sum(value))


def with_sum(value: dict[str, Any]) -> dict[str, Any]:
    """The record with its sum in it."""
    return {**value, _SUM: hash_value(value)}


def read_record(path: Path, old_keys: frozenset[str] | None = None) -> dict[str, Any]:
    """A record of `write_record`, without its sum. FileNotFoundError where there is none.

    old_keys: the keys of records that were written before they had a sum; one with exactly these keys is accepted as it is.
    Raises TfcliError (ARTIFACT) where the sum differs, and as `read_json` does.
    """
    return check_sum(read_json(path), path, old_keys)


def check_sum(value: Any, where: object, old_keys: frozenset[str] | None = None) -> dict[str, Any]:
    """A record without its sum, after a look at it. where: names it in the error."""
    if isinstance(value, dict):
        rest = {key: below for key, below in value.items() if key != _SUM}
        if len(rest) == len(value) and rest.keys() == old_keys:
            return rest
        with suppress(ValueError, RecursionError):  # NaN, half of a surrogate pair: nothing that was hashed
            if len(rest) < len(value) and value[_SUM] == hash_value(rest):
                return rest
    raise TfcliError(f"{where} is damaged", why="its sum differs from its content", code=ExitCode.ARTIFACT)


def read_jsonl(path: Path, seen: Callable[[bytes], object] | None = None) -> Iterator[Any]:
    """The values of a file with one JSON value a line; a broken line is an ARTIFACT error that names it. seen: gets the bytes
    of each line before its value is given."""
    try:
        opened = open_plain(path)
    except OSError as error:
        raise unreadable(path, error) from error
    with opened as file:
        for number, line in enumerate(file, 1):
            if seen is not None:
                seen(line)
            try:
                yield json.loads(line.decode("utf-8", "surrogatepass"))
            except (ValueError, RecursionError) as error:
                raise TfcliError(f"{path}:{number}: not JSON", why=str(error), code=ExitCode.ARTIFACT) from error


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raise TfcliError (ENVIRONMENT) where the disk of `folder` has less than `needed` bytes and a tenth of them free: before
    hours of work, not at their end. what: as "the latents"."""
    free = shutil.disk_usage(folder).free
    if free >= 1.1 * needed:
        return
    raise TfcliError(
        f"{what} take {needed:,} bytes, {free:,} are free at {folder}",
        why="a tenth more than they take has to be free",
        fix="free some space, or give --work a folder on another disk",
        code=ExitCode.ENVIRONMENT,
    )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn every OSError of a write into an ENVIRONMENT error that names the path and the system's word. Not a broken pipe:
    that is a process that exited."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise write_failure(path, error) from error
