"""One planted fault, and what becomes of the file that it is planted in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class ListError(Exception):
    """An entry of the list that does not fit the code: the list has to follow it."""


@dataclass(frozen=True)
class Mutant:
    """A fault of the method, as somebody could make it.

    Args:
        name: short and unique, for `--only`.
        what: what is wrong then, in plain words.
        file: where it is planted, from the root of the repository.
        old: text of the file, which is there exactly once.
        new: what takes its place.
        tests: files, folders or single tests ("file.py::test_name", where a file is slow) below tests/, without it, of which a test
            must fail.
    """

    name: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def planted(self, root: Path) -> str:
        """The text of the file with the fault. Raises ListError where the old text is not there exactly once, and where the
        file or the tests are missing."""
        path = root / self.file
        if not path.is_file():
            raise ListError(f"{self.name}: there is no file {self.file}")
        text = path.read_text()
        found = text.count(self.old)
        if found != 1:
            raise ListError(f"{self.name}: {self.file} has {self.old!r} {found} times, not once")
        for tests in self.tests:
            name, _, function = tests.partition("::")
            path = root / "tests" / name
            if not path.exists() or (function and f"\ndef {function}(" not in path.read_text()):
                raise ListError(f"{self.name}: there are no tests tests/{tests}")
        return text.replace(self.old, self.new)
