"""Tar files of samples in webdataset's naming (key.extension, members of a sample side by side) -> caption pairs."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field

from stages.coders.pixels import EXTENSIONS
from stages.core.config import Section, neutral
from stages.core.errors import ExitCode, TfcliError
from stages.core.reading import read_bounded
from stages.core.text import printable
from stages.sources.document import MAX_READ_BYTES, Document, FileSpan, ImageSegment, Omission, caption_pair
from stages.sources.files import existing, files_hash, files_named, reading
from stages.sources.hash_cache import KnownHashes
from stages.sources.tar import Member, TarTruncated, members
from stages.sources.text_rules import BadText, clean_text, decode_text

_IMAGE_SUFFIXES = tuple(extension[1:] for extension in EXTENSIONS)
_MAX_TARS = 100_000


class Webdataset(Section):
    """Pictures and captions in tar files."""

    kind: Literal["webdataset"] = "webdataset"
    """Tar files of samples as webdataset and img2dataset name them: key.jpg with key.txt or key.json."""
    path: str
    """A tar file, a folder of tar files, or a pattern such as shards/{000..009}.tar."""
    json_key: str = "caption"
    """The key of the caption in key.json, where a sample has no key.txt."""
    missing_caption: Literal["skip", "empty"] = "skip"
    """What becomes of a picture without a caption: left out, or a document of the picture alone."""
    max_text_bytes: int = Field(65_536, gt=0)
    """The most bytes of a caption; samples with a longer one are left out."""
    follow_links: bool = neutral(False)  # its tars, by name and content, are in the fingerprint
    """Follow symbolic links in the folder."""
    allow_truncated: bool = False
    """Keep the complete samples of a tar file that ends early or lacks some. Otherwise such a file is an error."""

    def documents(self) -> Iterator[Document | Omission]:
        """The samples in the order of the tars (by the bytes of their names) and of their members."""
        root, tars, passed = self._tars()
        yield from passed
        for relative in tars:
            yield from self._samples(root / relative, relative)

    def count(self) -> tuple[int, int]:
        """The pictures in the tars, from their headers."""
        root, tars, _ = self._tars()
        pictures = 0
        for relative in tars:
            self._check_plain(root / relative)
            try:
                for member in members(root / relative):
                    pictures += isinstance(member, Member) and member.name.lower().endswith(EXTENSIONS)
            except TarTruncated:
                continue  # reported when it is read
        return pictures, pictures

    def identity(self, known: KnownHashes | None = None) -> Any:
        """Hash of the tar files."""
        root, tars, _ = self._tars()
        return {"files": files_hash(root, tars, known)}

    def describe(self) -> str:
        """Which tars."""
        return f"{len(self._tars()[1]):,} tar files at {printable(self.path)}, captions from .txt or .json"

    def _tars(self) -> tuple[Path, list[str], list[Omission]]:
        """(folder, paths of the tars relative to it, what was passed over)."""
        if "{" in self.path and not os.path.exists(self.path):
            paths = [existing(name, "tar file") for name in _expanded(self.path)]
            root = Path(os.path.commonpath([path.parent for path in paths]))
            return root, [str(PurePosixPath(path.relative_to(root))) for path in paths], []
        path = existing(self.path, "tar file or folder of tars")
        if not path.is_dir():
            return path.parent, [path.name], []
        return path, *files_named(self.path, path, ".tar", "tars", self.follow_links)

    def _samples(self, path: Path, relative: str) -> Iterator[Document | Omission]:
        """webdataset's own grouping, fed with the places of the members instead of their bytes, so that pictures stay
        lazy. Its reader is not used: it loads every member, decompresses what calls itself .tar, and takes a cut tar
        for a whole one. Its decode() is never called: it runs pickles."""
        from webdataset.tariterators import group_by_keys

        self._check_plain(path)
        passed: Counter[str] = Counter()
        special: list[Omission] = []
        late: list[TarTruncated] = []
        seen: set[str] = set()
        done = 0
        try:
            for sample in group_by_keys(_grouping_input(path, relative, special, passed, late)):
                yield from special
                special.clear()
                key = sample.pop("__key__")
                sample.pop("__url__")
                if key in seen:
                    raise _unsorted(relative, key)
                seen.add(key)
                done += 1
                yield self._document(path, relative, key, sample)
            if late:
                raise late[0]
        except TarTruncated as error:
            if not self.allow_truncated:
                raise TfcliError(
                    f"{printable(str(path))}: TAR_TRUNCATED after {done:,} samples",
                    why=str(error),
                    fix="fetch the tar again, or keep its whole samples with --set source.allow_truncated=true",
                ) from error
            yield Omission(relative, relative, "TAR_TRUNCATED", f"after {done:,} samples: {error}")
        yield from special
        _check_count(path, relative, done, self.allow_truncated)
        if passed:
            counts = ", ".join(f"{count:,} {printable(name)[:40]}" for name, count in sorted(passed.items())[:20])
            yield Omission(relative, relative, "IGNORED_MEMBERS", f"not picture, .txt or .json: {counts}")

    def _check_plain(self, path: Path) -> None:
        if not path.is_file():
            raise TfcliError(f"not a plain file: {printable(str(path))}", fix="give a .tar", code=ExitCode.USAGE)

    def _document(self, path: Path, relative: str, key: str, sample: dict[str, Member]) -> Document | Omission:
        full_key = f"{relative.removesuffix('.tar')}/{key}"
        images = [suffix for suffix in _IMAGE_SUFFIXES if suffix in sample]
        where = f"{relative}/{key}"
        if not images:
            return Omission(full_key, where, "IMAGE_MISSING", f"only .{', .'.join(sorted(sample))}")
        if len(images) > 1:
            return Omission(full_key, where, "DUPLICATE_KEY", f"several pictures: .{', .'.join(images)}")
        image = sample[images[0]]
        if image.size > MAX_READ_BYTES:
            return Omission(full_key, where, "TOO_MANY_BYTES", f"{image.size:,} bytes")
        try:
            caption = self._caption(path, sample)
        except BadText as bad:
            return Omission(full_key, where, bad.reason, bad.message)
        picture = ImageSegment(f"{relative}/{image.name}", FileSpan(path, image.offset, image.size))
        return caption_pair(full_key, where, caption, picture, self.missing_caption, empty="it is empty")

    def _caption(self, path: Path, sample: dict[str, Member]) -> str | None:
        if "txt" in sample:
            return decode_text(_head(path, sample["txt"], self.max_text_bytes), self.max_text_bytes).strip()
        if "json" not in sample:
            return None
        limit = 16 * self.max_text_bytes  # the record holds more than the caption
        try:
            record = json.loads(decode_text(_head(path, sample["json"], limit), limit))
        except (ValueError, RecursionError) as error:
            raise BadText("JSON_BROKEN", f"not JSON ({error})") from error
        caption = record.get(self.json_key) if isinstance(record, dict) else None
        if caption is None:
            return None
        if not isinstance(caption, str):
            raise BadText("JSON_BROKEN", f"{printable(self.json_key)} is not a string")
        return clean_text(caption, self.max_text_bytes).strip()


def _grouping_input(
    path: Path, relative: str, special: list[Omission], passed: Counter[str], late: list[TarTruncated]
) -> Iterator[dict[str, Any]]:
    """What webdataset's tar_file_expander would give, with a Member in place of the bytes."""
    from webdataset.tariterators import base_plus_ext

    seen: set[tuple[str, str]] = set()
    for member in _until(members(path), late):
        if isinstance(member, Omission):
            special.append(member)
            continue
        if member.size < 0:  # a folder
            continue
        key, suffix = base_plus_ext(member.name)
        if key is None or (key.startswith("__") and key.endswith("__")):
            passed["without an extension" if key is None else "metadata"] += 1
            continue
        suffix = suffix.lower()
        if suffix not in (*_IMAGE_SUFFIXES, "txt", "json"):
            passed["." + suffix] += 1
            continue
        if (key, suffix) in seen:
            raise _unsorted(relative, key)
        seen.add((key, suffix))
        yield {"fname": member.name, "data": member, "__url__": relative}


def _until(found: Iterator[Member | Omission], late: list[TarTruncated]) -> Iterator[Member | Omission]:
    """The members; what is wrong behind a whole archive goes to `late`, so that its last sample is not held for a cut one."""
    try:
        yield from found
    except TarTruncated as error:
        if not error.behind_end:
            raise
        late.append(error)


def _check_count(path: Path, relative: str, found: int, allow_fewer: bool) -> None:
    """img2dataset writes `00000_stats.json` next to `00000.tar`: a tar that ends well may still lack what was downloaded."""
    try:
        expected = json.loads(read_bounded(path.with_name(f"{path.stem}_stats.json"), 1 << 20))["successes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # it is none, or not that program's
    if isinstance(expected, int) and found < expected and not allow_fewer:
        raise TfcliError(
            f"{printable(relative)}: {found:,} samples, {printable(path.stem)}_stats.json says {expected:,}",
            why="the tar was written again or not to its end",
            fix="fetch the tar again, or keep what is there with --set source.allow_truncated=true",
        )


def _unsorted(relative: str, key: str) -> TfcliError:
    return TfcliError(
        f"{printable(relative)}: the key {printable(key)} appears again",
        why="the members of a sample must lie side by side, each once",
        fix="write the tar again from its files with: tar --sort=name -cf NEW.tar -C FOLDER .",
    )


def _head(path: Path, member: Member, limit: int) -> bytes:
    with reading(path):
        return FileSpan(path, member.offset, min(member.size, limit + 1)).read()


def _expanded(pattern: str) -> list[str]:
    from braceexpand import braceexpand  # webdataset's own pattern language

    names: list[str] = []
    try:
        # braceexpand writes a whole range out before it gives the first name: {0..99999999} took 16 s
        ranges = re.findall(r"\{(-?\d+)\.\.(-?\d+)", pattern)
        too_many = any(abs(int(first) - int(last)) >= _MAX_TARS for first, last in ranges)
        if not too_many:
            names = list(itertools.islice(braceexpand(pattern), _MAX_TARS + 1))
    except ValueError as error:
        raise TfcliError(f"not a pattern: {printable(pattern)}", why=str(error), code=ExitCode.USAGE) from error
    if too_many or len(names) > _MAX_TARS:
        raise TfcliError(f"more than {_MAX_TARS:,} tars in {printable(pattern)}", code=ExitCode.USAGE)
    return names
