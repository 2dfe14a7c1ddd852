"""The one record that flows from every source: a document of text and image segments in order."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from stages.sources.hash_cache import KnownHashes, changed_during_read

# No picture is read beyond this, whatever its file claims. PixelPolicy.max_bytes is below it, so that the decoder
# sees that there was more and refuses the picture.
MAX_READ_BYTES = 256 << 20


class PictureFile(Protocol):
    """Where an image's data comes from. Small, picklable and lazy: nothing is read or drawn before `read`."""

    def read(self) -> bytes | np.ndarray[Any, np.dtype[np.uint8]]:
        """The encoded file's bytes, or pixels (height, width, 3) uint8 where the source draws them itself."""
        ...


@dataclass(frozen=True)
class FileSpan:
    """A picture in a file, or in `size` bytes of a file from `offset` on (a member of a tar)."""

    path: Path
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """The bytes, at most MAX_READ_BYTES + 1 of them. OSError if the file cannot be read or is not a plain file; TfcliError
        (INPUT, CHANGED_DURING_READ) if somebody writes to it meanwhile."""
        limit = MAX_READ_BYTES + 1 if self.size is None else min(self.size, MAX_READ_BYTES + 1)
        # O_NONBLOCK: a pipe that took the file's place since the folder was listed must not hang the worker
        with os.fdopen(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(f"not a plain file: {self.path}")
            before = _stat_values(file.fileno())
            file.seek(self.offset)
            data = file.read(limit)
            if _stat_values(file.fileno()) != before:
                raise changed_during_read(self.path)
            return data


def _stat_values(descriptor: int) -> tuple[int, ...]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


@dataclass(frozen=True)
class TextSegment:
    """A piece of text inside a document."""

    text: str


@dataclass(frozen=True)
class ImageSegment:
    """An image inside a document. `name` is for people: a path, a tar member, a code point."""

    name: str
    picture: PictureFile


Segment = TextSegment | ImageSegment


@dataclass(frozen=True)
class Document:
    """Text and images in order.

    key: unique and stable in its source. group: all documents of a group fall on the same side of the train/held-out
    split (None: the document is its own group). fixed_order: False for a caption pair, whose order packing draws;
    True where the order carries meaning. labels: what the source knows about the truth (shapes: the scenes), for
    evaluation only (on disk: `facts`). heldout: True sends the document to the held-out side whatever the split says;
    has_heldout_loss: False for one that is judged there, but not from the law of training: no loss is measured on it.
    source: the name by which packing weighs it.
    """

    key: str
    segments: tuple[Segment, ...]
    group: str | None = None
    fixed_order: bool = False
    heldout: bool = False
    has_heldout_loss: bool = True
    labels: Any = None
    source: str = "pictures"

    @property
    def images(self) -> tuple[ImageSegment, ...]:
        """The image segments, in order."""
        return tuple(segment for segment in self.segments if isinstance(segment, ImageSegment))


@dataclass(frozen=True)
class Omission:
    """A thing in the source that became no document, and why. `reason` is an upper-case code, e.g. CAPTION_MISSING."""

    key: str
    path: str
    reason: str
    message: str


class Source(Protocol):
    """What every source's pydantic model (a `kind` literal and its options) offers."""

    def documents(self) -> Iterator[Document | Omission]:
        """All documents in an order that is the same each time. Pictures are not read here."""
        ...

    def count(self) -> tuple[int, int]:
        """Documents and pictures as listed, before anything is found unusable; fast, for plans."""
        ...

    def identity(self, known: KnownHashes | None = None) -> Any:
        """JSON for the fingerprint beyond the options: hashes of the outside files that are read, or None. known: hashes
        of files that need not be read again."""
        ...

    def describe(self) -> str:
        """One line for people: what is read and by which rule."""
        ...


def count_documents(items: Iterable[Document | Omission]) -> tuple[int, int]:
    """Documents and the pictures in them."""
    documents = pictures = 0
    for item in items:
        if isinstance(item, Document):
            documents, pictures = documents + 1, pictures + len(item.images)
    return documents, pictures


def pictures_of(items: Iterable[Document | Omission]) -> Iterator[PictureFile]:
    """The pictures of all documents, in order."""
    return (image.picture for item in items if isinstance(item, Document) for image in item.images)


def caption_pair(
    key: str,
    where: str,
    caption: str | None,
    picture: ImageSegment,
    missing: Literal["skip", "empty"],
    empty: str = "empty caption",
) -> Document | Omission:
    """A picture and its caption; without one the picture alone, or an Omission. empty: the message for a caption of ""."""
    if caption:
        return Document(key, (TextSegment(caption), picture))
    if missing == "empty":
        return Document(key, (picture,))
    return Omission(key, where, "CAPTION_MISSING", "no caption" if caption is None else empty)
