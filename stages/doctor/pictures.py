"""The pictures of a sample: reads and decodes them, makes findings about sizes, modes, damage and duplicates."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.coders.config import Images
from stages.coders.header import TRAITS, glance
from stages.coders.pixels import Pixels
from stages.doctor.findings import MAX_EXAMPLES, Finding, Gravity, Sighting, share_text
from stages.sources.decoding import Fitted
from stages.sources.document import ImageSegment
from stages.sources.reasons import FIXES

_THUMB = 16  # cells along a side of the small copy by which pictures are compared
# Of 255: the largest difference of a cell between near duplicates (another file type or size of one picture).
_NEAR = 16
_WIDE = 2.0  # longer side to shorter, from which a centre crop loses half of the picture

_NOTES = {"EXIF_BROKEN": "a broken EXIF block: ignored", "ICC_BROKEN": "a broken colour profile: ignored"}


@dataclass(frozen=True)
class SeenPicture:
    """A picture that was looked at. size: width and height as in the file, upright; None where the header is broken."""

    name: str
    format: str
    size: tuple[int, int] | None
    traits: tuple[str, ...]
    digest: str
    reason: str
    message: str
    notes: tuple[str, ...]
    thumb: np.ndarray[Any, np.dtype[np.int16]] | None


def look(image: ImageSegment, fitted: Fitted) -> SeenPicture:
    """The facts of a picture and of what decoding made of it."""
    try:
        data = image.picture.read()
    except OSError:
        data = b""
    kind, size, traits = "unknown", None, ()
    if isinstance(data, np.ndarray):
        kind, size = "drawn", (data.shape[1], data.shape[0])
    elif seen := glance(data):
        kind, size, traits = seen.format, (seen.width, seen.height), seen.traits  # type: ignore[assignment]
    raw = data.tobytes() if isinstance(data, np.ndarray) else data
    thumb = None if fitted.pixels is None else small_copy(fitted.pixels)
    digest = hashlib.sha256(raw).hexdigest()
    return SeenPicture(image.name, kind, size, traits, digest, fitted.reason, fitted.message, fitted.notes, thumb)


def small_copy(pixels: Pixels) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Means over a grid of 16 x 16 cells, (768,). Equal for copies of a picture in other sizes and file types, nearly."""
    height, width = pixels.shape[:2]
    rows = np.linspace(0, height, _THUMB + 1).astype(int)
    columns = np.linspace(0, width, _THUMB + 1).astype(int)
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.int64), rows[:-1], axis=0), columns[:-1], axis=1)
    # reduceat gives the one element where a cell is empty, which is the case below 16 pixels
    counts = np.maximum(1, np.diff(rows))[:, None, None] * np.maximum(1, np.diff(columns))[None, :, None]
    small: np.ndarray[Any, np.dtype[np.int16]] = (sums // counts).astype(np.int16).ravel()
    return small


def findings_about(seen: Sequence[SeenPicture], images: Images, max_bad: float) -> Iterator[Finding]:
    """Everything about the pictures of the sample. max_bad: the share that may fail before encoding stops."""
    yield from _damage(seen, max_bad)
    yield from _sizes(seen, images)
    yield from _traits(seen)
    yield from _duplicates(seen)


def _damage(seen: Sequence[SeenPicture], max_bad: float) -> Iterator[Finding]:
    bad: defaultdict[str, Sighting] = defaultdict(Sighting)
    for one in seen:
        if one.reason:
            bad[one.reason].add(f"{one.name}: {one.message}")
    number = sum(sighting.number for sighting in bad.values())
    if seen and number == len(seen):
        yield Finding("NO_GOOD_PICTURE", "stops", "not one picture of the sample can be used", "see the reasons below")
    elif number > max_bad * max(100, len(seen)):  # as encoding counts: of the first 100 where there are fewer
        what = f"{share_text(number, len(seen))} pictures cannot be used; encoding stops above {100 * max_bad:g} %"
        yield Finding("TOO_MANY_BAD", "stops", what, "replace or remove them, or raise encode.max_bad", number)
    for reason, sighting in bad.items():
        what = f"{share_text(sighting.number, len(seen))} pictures are left out: {reason}"
        yield Finding(reason, "problem", what, FIXES.get(reason, ""), sighting.number, sighting.examples)


def _sizes(seen: Sequence[SeenPicture], images: Images) -> Iterator[Finding]:
    sized = [(one, one.size) for one in seen if one.size is not None and not one.reason]
    small = [one for one, size in sized if min(size) < images.size]
    if small:
        gravity: Gravity = "problem" if len(small) > len(sized) / 10 else "remark"
        what = f"{share_text(len(small), len(sized))} pictures are smaller than images.size = {images.size} and get blurred"
        fitting = _fitting(sized)
        fix = "take larger ones" + (f", or set images.size to {fitting} or less" if fitting < images.size else "")
        yield Finding("SMALLER_THAN_SIZE", gravity, what, fix, len(small), _named(small))
    wide = [one for one, size in sized if max(size) > _WIDE * min(size)]
    if wide and images.fit != "pad":
        fate = "lose half of them or more to the crop" if images.fit == "crop" else "are cropped to the longest bucket"
        what = f"{share_text(len(wide), len(sized))} pictures are longer than {_WIDE:g}:1 and {fate}"
        yield Finding(
            "LONG_SIDE", "remark", what, 'set images.fit = "pad" to keep all of them', len(wide), _named(wide)
        )
    flat = [one for one in seen if one.thumb is not None and _one_colour(one.thumb)]
    if flat:
        what = f"{share_text(len(flat), len(seen))} pictures show one colour only"
        yield Finding("BLANK", "remark", what, "see whether they are placeholders", len(flat), _named(flat))


def _fitting(sized: list[tuple[SeenPicture, tuple[int, int]]]) -> int:
    """The multiple of 16, as most autoencoders and patches want it, that nine tenths of the pictures reach."""
    shorter = sorted(min(size) for _, size in sized)
    return max(16, shorter[len(shorter) // 10] // 16 * 16)


def _traits(seen: Sequence[SeenPicture]) -> Iterator[Finding]:
    found: defaultdict[str, Sighting] = defaultdict(Sighting)
    for one in seen:
        for code in (*one.traits, *(note for note in one.notes if note in _NOTES)):
            found[code].add(one.name)
    for code, sighting in found.items():
        text = TRAITS.get(code) or _NOTES[code]
        what = f"{share_text(sighting.number, len(seen))} pictures have {text}" if code in _NOTES else ""
        what = what or f"{share_text(sighting.number, len(seen))} pictures: {text}"
        yield Finding(code, "remark", what, "", sighting.number, sighting.examples)


def _duplicates(seen: Sequence[SeenPicture]) -> Iterator[Finding]:
    good = [one for one in seen if one.thumb is not None]
    groups: defaultdict[str, list[SeenPicture]] = defaultdict(list)
    for one in good:
        groups[one.digest].append(one)
    same = sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)
    if same:
        number = sum(map(len, same))
        what = f"{share_text(number, len(good))} pictures of the sample have a twin of the same bytes"
        examples = tuple(" = ".join(one.name for one in group[:3]) for group in same[:MAX_EXAMPLES])
        gravity: Gravity = "problem" if number > len(good) / 10 else "remark"
        fix = "keep one of each: the held-out side would hold what was learnt by heart"
        yield Finding("DUPLICATE", gravity, what, fix, number, examples)
    near = near_twins([group[0] for group in groups.values()])
    if near:
        what = f"{share_text(len(near), len(good))} pictures of the sample look like another one (other size, format or detail)"
        examples = tuple(f"{one.name} ~ {other.name}" for one, other in near[:MAX_EXAMPLES])
        yield Finding("NEAR_DUPLICATE", "remark", what, "see whether they are the same picture", len(near), examples)


def near_twins(seen: Sequence[SeenPicture]) -> list[tuple[SeenPicture, SeenPicture]]:
    """Pictures with an earlier one whose small copy differs by little in every cell. One-coloured ones are left out."""
    good = [one for one in seen if one.thumb is not None and not _one_colour(one.thumb)]
    good.sort(key=lambda one: float(one.thumb.mean()) if one.thumb is not None else 0.0)
    if not good:
        return []
    thumbs = np.stack([one.thumb for one in good if one.thumb is not None])
    means = thumbs.mean(axis=1)
    found = []
    for index in range(1, len(good)):
        first = int(np.searchsorted(means, means[index] - _NEAR))
        close = np.abs(thumbs[first:index] - thumbs[index]).max(axis=1, initial=0) <= _NEAR
        if close.any():
            found.append((good[first + int(close.argmax())], good[index]))
    return found


def _one_colour(thumb: np.ndarray[Any, Any]) -> bool:
    return int(np.ptp(thumb.reshape(-1, 3), axis=0).max()) <= 2


def size_table(seen: Sequence[SeenPicture]) -> list[tuple[str, int]]:
    """How many pictures have a shorter side of each class, smallest first."""
    edges = (32, 64, 128, 256, 512, 1024, 2048)
    counts: Counter[int] = Counter()
    for one in seen:
        if one.size is not None:
            counts[next((edge for edge in edges if min(one.size) < edge), 0)] += 1
    below = [(f"below {edge} px" if edge == 32 else f"{edge // 2} to {edge - 1} px", counts[edge]) for edge in edges]
    return [row for row in [*below, ("2048 px and more", counts[0])] if row[1]]


def _named(seen: Sequence[SeenPicture]) -> tuple[str, ...]:
    return tuple(f"{one.name} ({one.size[0]}x{one.size[1]})" for one in seen[:MAX_EXAMPLES] if one.size is not None)
