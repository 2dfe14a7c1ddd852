"""Listing a user's files safely: the walk over a folder, names that must stay inside it, the hash of what was read."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from stages.core.errors import ExitCode, TfcliError
from stages.core.hashing import hash_file, hash_value
from stages.core.system import read_failure
from stages.core.text import printable
from stages.sources.document import Omission
from stages.sources.hash_cache import KnownHashes


class FoundFile(NamedTuple):
    """A plain file below the root; `relative` is its path with forward slashes, byte for byte as on disk. Of millions of
    files a tuple takes a third of the time of a dataclass with its Path."""

    relative: str
    root: Path

    @property
    def path(self) -> Path:
        return self.root / self.relative


def existing(path: str, what: str, key: str = "") -> Path:
    """The path if it exists; a USAGE error with a suggestion otherwise. `what` names it: "images folder". key: of the recipe
    that gave it."""
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", path)
    if scheme and not os.path.exists(path):
        raise TfcliError(
            f"only local paths are accepted (got {scheme[1]}:)", fix="download the data first", code=ExitCode.USAGE
        )
    found = Path(os.path.expanduser(path))  # unlike Path.expanduser, it leaves ~nobody as it is
    if os.path.exists(found):
        return found
    fix = f"check the path; --set {key}=... gives another" if key else "check the path"
    if os.path.isdir(found.parent):
        close = difflib.get_close_matches(found.name, sorted(os.listdir(found.parent)), n=1)
        fix += f"; did you mean {printable(str(found.parent / close[0]))}?" if close else ""
    raise TfcliError(f"{what} not found: {printable(path)}", fix=fix, code=ExitCode.USAGE)


def existing_folder(path: str, what: str, key: str = "") -> Path:
    """Like `existing`, and it must be a folder."""
    found = existing(path, what, key)
    if not found.is_dir():
        raise TfcliError(f"{what} is not a folder: {printable(path)}", fix="give the folder", code=ExitCode.USAGE)
    return found


def walk(root: Path, recursive: bool, follow_links: bool) -> Iterator[FoundFile | Omission]:
    """Plain files below `root`, sorted by the bytes of their relative path; what is passed over becomes an Omission.
    Nothing is opened, so a pipe cannot block."""
    entries = list(scan(root, recursive, follow_links))
    entries.sort(key=lambda entry: os.fsencode(entry.relative if isinstance(entry, FoundFile) else entry.path))
    yield from entries


def scan(root: Path, recursive: bool, follow_links: bool) -> Iterator[FoundFile | Omission]:
    """The same as they are met, in no order."""
    # a stack, not recursion: a hostile folder can be 2,000 levels deep
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        below, above = waiting.pop()
        try:
            status = (root / below).stat()
            entries = list(os.scandir(root / below))
        except OSError as error:
            yield Omission(below, below, "PERMISSION", f"cannot list the folder: {error.strerror}")
            continue
        here = (status.st_dev, status.st_ino)
        if here in above:
            yield Omission(below, below, "SKIPPED_SPECIAL", "a link to a folder that contains it")
            continue
        for entry in entries:
            relative = f"{below}/{entry.name}" if below else entry.name
            found = _look_at(entry, relative, root, follow_links)
            if found is not None:
                yield found
            elif recursive:
                waiting.append((relative, above | {here} if follow_links else above))


def _look_at(entry: os.DirEntry[str], relative: str, root: Path, follow_links: bool) -> FoundFile | Omission | None:
    """None for a folder."""
    if entry.is_symlink() and not follow_links:
        return Omission(relative, relative, "SKIPPED_LINK", "a symbolic link (follow_links = false)")
    try:  # both know from the listing, without another look at the disk
        if entry.is_dir():
            return None
        plain = entry.is_file()
    except OSError as error:
        return Omission(relative, relative, "SKIPPED_SPECIAL", f"cannot be looked at: {error.strerror}")
    if not plain and entry.is_symlink() and not os.path.exists(entry.path):
        return Omission(relative, relative, "SKIPPED_SPECIAL", "a link that leads to nothing")
    if not plain:
        return Omission(relative, relative, "SKIPPED_SPECIAL", "not a plain file (pipe, socket or device)")
    return FoundFile(relative, root)


def safe_relative(name: str) -> str:
    """The normal form of a path that must stay below its root; ValueError says why it is refused. Not resolved."""
    if not name or "\x00" in name:
        raise ValueError("the path is empty or holds NUL")
    path = PurePosixPath(name)
    if path.is_absolute():
        raise ValueError(f"absolute paths are refused ({printable(name)})")
    if ".." in path.parts:
        raise ValueError(f"paths with .. are refused ({printable(name)})")
    return str(path)


def files_named(
    path: str, folder: Path, suffixes: str | tuple[str, ...], what: str, follow_links: bool
) -> tuple[list[str], list[Omission]]:
    """The files below `folder` that end with one of `suffixes` in any case, sorted; and what was passed over that may have
    held such. An INPUT error if there are none, which says so where links were all there was. what: "tars"."""
    listing = list(walk(folder, recursive=True, follow_links=follow_links))
    found = [
        item.relative for item in listing if isinstance(item, FoundFile) and item.relative.lower().endswith(suffixes)
    ]
    passed = [item for item in listing if isinstance(item, Omission) and _may_hold(folder / item.path, suffixes)]
    if not found:
        looked = suffixes if isinstance(suffixes, str) else ", ".join(suffixes)
        raise none_named(f"no {what} in {printable(path)} (looked for {looked} in {len(listing):,} files)", passed)
    return found, passed


def none_named(what: str, passed: Iterable[Omission], fix: str = "check the path") -> TfcliError:
    """An INPUT error for a folder in which nothing is read, with what was passed over."""
    counts = Counter(item.reason for item in passed)
    examples = {item.reason: item for item in reversed(list(passed))}
    why = "; ".join(
        f"{number:,} passed over: {reason}, e.g. {printable(examples[reason].path)}: {examples[reason].message}"
        for reason, number in counts.most_common(3)
    )
    if counts["SKIPPED_LINK"]:
        fix = "--set source.follow_links=true reads what symbolic links lead to"
    return TfcliError(what, why=why, fix=fix)


def _may_hold(path: Path, suffixes: str | tuple[str, ...]) -> bool:
    return path.name.lower().endswith(suffixes) or os.path.isdir(path)


def file_below(root: Path, name: str, follow_links: bool = False) -> str:
    """The normal form of the name of a file below `root`; where it is spelt in another form of Unicode than on the disk, the
    form on the disk. ValueError for a path that is refused, FileNotFoundError where it leads to no file in there; the error
    says why. follow_links: a link may lead out of `root`."""
    relative = safe_relative(name)
    if not os.path.isfile(root / relative):  # unlike Path.is_file, False for a name that is too long
        forms = {unicodedata.normalize(form, relative) for form in ("NFC", "NFD")}
        there = [form for form in forms if os.path.isfile(root / form)]
        if len(there) != 1:
            raise FileNotFoundError(f"{printable(name)} is not a file in the folder")
        relative = there[0]
    # a link inside the folder may still lead out of it
    if not follow_links and not Path(os.path.realpath(root / relative)).is_relative_to(os.path.realpath(root)):
        raise FileNotFoundError(f"{printable(name)} leads out of the folder")
    return relative


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError of reading a file of the user's into an INPUT error that names it, with the system's word."""
    try:
        yield
    except OSError as error:
        raise read_failure(Path(printable(str(path))), error, ExitCode.INPUT) from error


class Names:
    """Names of files that are there, found by names as people and other systems write them: as they are, else in another form
    of Unicode (a Mac writes NFD) or with other capitals, where exactly one is meant."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._folded: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._names:
            self._folded[_folded(name)].append(name)

    def find(self, name: str) -> str | None:
        """The name on the disk; None where there is none, or more than one."""
        if name in self._names:
            return name
        forms = self._folded.get(_folded(name), [])
        return forms[0] if len(forms) == 1 else None


def _folded(name: str) -> str:
    return (
        name.lower() if name.isascii() else unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    )


def without_suffix(relative: str) -> str:
    """`a/b.c.jpg` -> `a/b.c`."""
    folder, slash, name = relative.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return f"{folder}{slash}{stem if dot and stem else name}"


def files_hash(root: Path, relatives: Iterable[str], known: KnownHashes | None = None) -> str:
    """SHA-256 of the list of (relative path, bytes, SHA-256 of content); an unreadable file counts as such. From `known` where
    no file has changed since."""
    names = list(relatives)
    return _hash_all(root, names)[0] if known is None else known.value_of(root, names, _hash_all)


def _hash_all(root: Path, relatives: Sequence[str]) -> tuple[str, bool]:
    """The hash, and whether all could be read."""
    rows: list[tuple[str, int, str]] = []
    for relative in relatives:
        path = root / relative
        try:
            # a pipe would wait for ever, and /dev/zero has no end
            plain = path.is_file()
            rows.append((relative, path.stat().st_size, hash_file(path)) if plain else (relative, -1, "unreadable"))
        except OSError:
            rows.append((relative, -1, "unreadable"))
    return hash_value(rows), all(size >= 0 for _, size, _ in rows)
