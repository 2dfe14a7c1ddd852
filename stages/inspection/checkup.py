"""A look at a source before a long run: reads documents spread over it, makes findings with examples and what to do."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from stages.coders.config import Images
from stages.coders.pixels import BadImage, Pixels, crop, decode, header, to_image
from stages.core.hashing import hash_bytes
from stages.sources.document import Document, ImageSegment, Omission, Source, TextSegment

Gravity = Literal["error", "warning", "note"]
_LONG_TEXT = 2000  # characters of a caption
_FILE_NAME = re.compile(r"^\S*\.(jpe?g|png|webp|gif|bmp|tiff?|avif)$|^(img|dsc|dscn|pxl)[_-]?\d+\S*$", re.IGNORECASE)
_HTML = re.compile(r"</?[a-z][a-z0-9]*(\s[^>]*)?/?>|&(amp|lt|gt|quot|nbsp|#\d+);", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    """count: of the documents or pictures looked at (or omitted) that have it. examples: paths, at most three."""

    gravity: Gravity
    what: str
    count: int
    examples: tuple[str, ...]
    fix: str


@dataclass
class Checkup:
    """What was seen. sides: shorter sides of the pictures in pixels. kinds: number of pictures by format and mode."""

    documents: int = 0
    pictures: int = 0
    looked_at: int = 0
    decoded: int = 0
    sides: list[int] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def add_kind(self, kind: str) -> None:
        self.kinds[kind] = self.kinds.get(kind, 0) + 1

    @property
    def usable(self) -> bool:
        return self.looked_at > 0 and not any(finding.gravity == "error" for finding in self.findings)


def examine(source: Source, images: Images, limit: int, poll: Callable[[], None] = lambda: None) -> Checkup:
    """Look at up to `limit` documents at even distances, and at everything that the source itself leaves out."""
    result = Checkup(*source.count())
    step = max(1, -(-result.documents // limit))
    seen = _Seen(images)
    for number, item in enumerate(source.documents()):
        poll()
        if isinstance(item, Omission):
            seen.note(_LEFT_OUT, f"{item.reason}: {item.message}", item.path)
        elif number % step == 0 and result.looked_at < limit:
            result.looked_at += 1
            seen.document(item, result)
    result.findings = seen.findings(result)
    return result


# (gravity, what to do); the first line of a finding is made from the code
_LEFT_OUT = "left out by the source"
_RULES: dict[str, tuple[Gravity, str]] = {
    _LEFT_OUT: ("warning", "mend these, or leave them: encode leaves them out and counts them"),
    "cannot be decoded": ("warning", "mend or remove them: encode leaves them out, and stops above encode.max_bad"),
    "the same bytes twice": ("warning", "remove copies: what is held out should not be trained on under another name"),
    "looks like another picture": ("note", "look at the pairs: near copies should share a group"),
    "smaller than images.size": (
        "warning",
        "lower images.size, or leave small pictures out with images.policy.min_size",
    ),
    "loses more than half by the square crop": ("note", 'set images.fit = "pad" or "buckets"'),
    "has no text": (
        "warning",
        "without text a picture teaches no caption; add captions, or re-caption by tokenize.captions",
    ),
    "has a text that others have too": (
        "warning",
        "captions that say the same of many pictures teach nothing about them",
    ),
    "has a text that looks like a file name": (
        "warning",
        "name the right column with source.text_column, or re-caption",
    ),
    "has a text with HTML in it": ("warning", "clean the texts"),
    "has a very long text": ("note", "see that pack.row_length holds it, or cut it"),
    "has characters that are composed otherwise (not NFC)": (
        "note",
        "normalise to NFC: equal words get other tokens else",
    ),
    "has control characters in its text": ("note", "clean the texts"),
    "is animated: the first frame is taken": ("note", 'set images.policy.animated = "skip" to leave it out'),
    "has more than 8 bits": ("note", "it is scaled to 8 bits"),
    "has transparent pixels or a palette": ("note", "it is laid over images.policy.alpha, white if that is not set"),
}


class _Seen:
    """Examples by rule, and what has to be compared between documents."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._found: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._texts: dict[str, list[str]] = defaultdict(list)
        self._bytes: dict[str, str] = {}
        self._looks: list[tuple[Any, Any, str]] = []

    def note(self, rule: str, detail: str, where: str) -> None:
        self._found[(rule, detail)].append(where)

    def document(self, document: Document, result: Checkup) -> None:
        text = " ".join(part.text for part in document.segments if isinstance(part, TextSegment)).strip()
        where = document.images[0].name if document.images else document.key
        if not text:
            self.note("has no text", "", where)
        elif document.images:
            self._texts[text].append(where)
        rules = {
            "has a text that looks like a file name": bool(_FILE_NAME.match(text)),
            "has a text with HTML in it": bool(_HTML.search(text)),
            "has a very long text": bool(document.images) and len(text) > _LONG_TEXT,
            "has characters that are composed otherwise (not NFC)": not unicodedata.is_normalized("NFC", text),
            "has control characters in its text": any(
                unicodedata.category(char) == "Cc" and char not in "\n\t" for char in text
            ),
        }
        for rule, holds in rules.items():
            if holds:
                self.note(rule, "", where)
        for image in document.images:
            self._picture(image, result)

    def findings(self, result: Checkup) -> list[Finding]:
        """Gravest first, then by number."""
        for places in self._texts.values():
            if len(places) > max(2, 0.02 * result.looked_at):
                self._found[("has a text that others have too", "")] += places
        found = []
        for (rule, detail), places in self._found.items():
            gravity, fix = _RULES[rule]
            found.append(Finding(gravity, f"{rule}: {detail}" if detail else rule, len(places), tuple(places[:3]), fix))
        if result.looked_at == 0:
            fix = "see what the source leaves out"
            found.append(Finding("error", "no document can be used", result.documents, (), fix))
        elif result.pictures and not result.decoded:
            found.append(Finding("error", "no picture can be decoded", result.looked_at, (), "see why above"))
        order: dict[Gravity, int] = {"error": 0, "warning": 1, "note": 2}
        return sorted(found, key=lambda finding: (order[finding.gravity], -finding.count))

    def _picture(self, image: ImageSegment, result: Checkup) -> None:
        try:
            data = image.picture.read()
            if isinstance(data, np.ndarray):
                pixels: Pixels = data
                result.add_kind("drawn by the source")
            else:
                decoded = decode(data, self._images.policy)
                pixels = decoded.pixels
                self._file(data, image.name, decoded.notes, result)
        except BadImage as bad:
            self.note("cannot be decoded", bad.reason, f"{image.name} ({bad.message})")
            return
        except OSError as error:
            self.note("cannot be decoded", "UNREADABLE", f"{image.name} ({error.strerror or error})")
            return
        result.decoded += 1
        height, width = pixels.shape[:2]
        result.sides.append(min(height, width))
        if min(height, width) < self._images.size:
            self.note("smaller than images.size", "", f"{image.name} ({width}x{height})")
        if self._images.fit == "crop" and max(height, width) > 2 * min(height, width):
            self.note("loses more than half by the square crop", "", f"{image.name} ({width}x{height})")
        self._look(pixels, image.name)

    def _file(self, data: bytes, name: str, notes: tuple[str, ...], result: Checkup) -> None:
        kind, mode, _, _ = header(data)
        result.add_kind(f"{kind} {mode}")
        first = self._bytes.setdefault(hash_bytes(data), name)
        if first != name:
            self.note("the same bytes twice", "", f"{name} = {first}")
        rules: dict[str, Any] = {
            "is animated: the first frame is taken": "FIRST_FRAME" in notes,
            "has more than 8 bits": mode.startswith("I") or mode == "F",
            "has transparent pixels or a palette": mode in ("RGBA", "LA", "PA", "P", "RGBa", "La"),
        }
        for rule, holds in rules.items():
            if holds:
                self.note(rule, "", name)

    def _look(self, pixels: Pixels, name: str) -> None:
        """Grey at 9 x 8, each place darker than its right neighbour or not, and the mean colour: near copies differ in few of
        these bits."""
        small = crop(to_image(pixels), 8, 9).astype(np.float64)
        steps = np.diff(small.mean(2), axis=1)
        if np.abs(steps).max() < 4:  # of one colour: nothing to compare
            return
        bits, colour = (steps > 0).ravel(), small.mean((0, 1))
        if self._looks:
            same = (np.stack([look for look, _, _ in self._looks]) != bits).sum(1) <= 3
            same &= np.abs(np.stack([mean for _, mean, _ in self._looks]) - colour).max(1) < 6
            if same.any():
                first = self._looks[int(same.argmax())][2]
                if f"{name} = {first}" not in self._found.get(("the same bytes twice", ""), ()):
                    self.note("looks like another picture", "", f"{name} ~ {first}")
                return
        self._looks.append((bits, colour, name))
