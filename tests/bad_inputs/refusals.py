"""A system that refuses one operation on a file below a folder: the nth open, write, flush, rename, mkdir or close fails."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BY_PATH = ("open", "replace", "rename", "mkdir", "link")  # of the module os, the path first


class Refusals:
    """Counts the operations below `folder`; the one with the number `refused` fails with `number` instead (-1: none does)."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, number: int = 0, refused: int = -1) -> None:
        self.names: list[str] = []
        self._folder = str(folder)
        self._number = number
        self._refused = refused
        for name in BY_PATH:
            patch.setattr(os, name, self._around(getattr(os, name), name))
        patch.setattr(os, "fsync", self._fsync)
        patch.setattr(io, "open", self._opened(io.open))

    @property
    def struck(self) -> bool:
        return 0 <= self._refused < len(self.names)

    def stop(self) -> None:
        """What comes now is the test's own."""
        self._folder = "\0"

    def meet(self, name: str, path: object = None) -> None:
        """An operation. path: None where the system does not know it."""
        if self._folder == "\0":
            return
        self.names.append(name)
        if len(self.names) - 1 == self._refused:
            raise OSError(self._number, os.strerror(self._number), *([] if path is None else [str(path)]))

    def _is_ours(self, path: object) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.path.abspath(path).startswith(self._folder)

    def _around(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if self._is_ours(path):
                self.meet(name, path)
            return real(path, *arguments, **options)

        return call

    def _fsync(self, _descriptor: int) -> None:
        self.meet("fsync")

    def _opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if not self._is_ours(path):
                return real(path, mode, *arguments, **options)
            self.meet(f"open {mode}", path)
            file = real(path, mode, *arguments, **options)
            return _Writer(file, self) if mode == "wb" else file

        return call


class _Writer:
    """A file that is written, of which each write and the close may be refused."""

    def __init__(self, file: Any, refusals: Refusals) -> None:
        self._file = file
        self._refusals = refusals

    def write(self, data: Any) -> Any:
        self._refusals.meet("write")
        return self._file.write(data)

    def close(self) -> None:
        if not self._file.closed:
            self._file.close()  # as the system does: the file is closed, whatever it says
            self._refusals.meet("close")

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
