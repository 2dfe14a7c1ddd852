"""PNG files by their chunks: reads bytes, makes bytes that pillow opens whatever text and profile they carry, and the colour
that stands for transparent. Decodes no pixels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"\x89PNG\r\n\x1a\n"
MAX_PROFILE_BYTES = 4 << 20  # press profiles reach 2 MB
_GREY, _RGB = 0, 2  # types of colour of which one colour can stand for transparent
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_ABOUT_PIXELS = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # text that may say how to turn the picture
_MAX_TEXT_BYTES = 1 << 20  # pillow refuses the file above that: for compressed text, and for compressed profiles
_MAX_INFLATED = 16  # chunks: the time that they take stays bounded


@dataclass(frozen=True)
class Readable:
    """data: the file without the chunks at which pillow would refuse it. profile: one of more than 1 MiB, which is among them.
    profile_too_large: there was one above MAX_PROFILE_BYTES."""

    data: bytes
    profile: bytes | None = None
    profile_too_large: bool = False


def openable(data: bytes) -> Readable:
    """The file without its text, of which only what may say how to turn the picture is kept, and without large profiles."""
    dropped: list[tuple[int, int]] = []
    profile, too_large, inflated = None, False, 0
    for offset, kind, size in _chunks(data):
        if kind not in (*_TEXT, b"iCCP"):
            continue
        name, _, rest = data[offset + 8 : offset + 8 + min(size, MAX_PROFILE_BYTES * 2)].partition(b"\x00")
        drop = kind != b"iCCP" and name not in _ABOUT_PIXELS
        if not drop:
            inflated += 1
            drop = inflated > _MAX_INFLATED
        if not drop and kind == b"iCCP":
            found = _inflated(rest[1:], MAX_PROFILE_BYTES)
            if len(found) > _MAX_TEXT_BYTES and _sum_holds(data, offset, size):
                drop, too_large = True, len(found) > MAX_PROFILE_BYTES
                profile = None if too_large else found
        elif not drop:
            drop = max(size, len(_inflated(_compressed(kind, rest), _MAX_TEXT_BYTES))) > _MAX_TEXT_BYTES
        if drop:
            dropped.append((offset, offset + 12 + size))
    if not dropped:
        return Readable(data)
    kept, end = [], 0
    for start, next_end in dropped:
        kept.append(data[end:start])
        end = next_end
    return Readable(b"".join([*kept, data[end:]]), profile, too_large)


def sum_is_wrong(data: bytes) -> bool:
    """Whether a chunk of pixels is not what its checksum says. pillow does not look at the last chunk's."""
    return any(kind == b"IDAT" and not _sum_holds(data, offset, size) for offset, kind, size in _chunks(data))


def bit_depth(data: bytes) -> int:
    """Bits of a sample."""
    return data[24]


def clear_colour(data: bytes) -> tuple[int, ...] | None:
    """The samples of the colour that stands for transparent, one for grey and three for RGB; None where there is none, and for
    other types. Bits above those of a sample are not looked at, as the standard has it."""
    count = {_GREY: 1, _RGB: 3}.get(data[25])
    found = None
    for offset, kind, size in _chunks(data):
        if kind == b"IDAT":
            break
        if kind == b"tRNS" and count is not None and size >= 2 * count:
            found = struct.unpack_from(f">{count}H", data, offset + 8)
    return None if found is None else tuple(sample & ((1 << bit_depth(data)) - 1) for sample in found)


def _chunks(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Where each chunk begins, its kind and the bytes of its body, up to the first that is cut."""
    offset = len(MAGIC)
    while offset + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, offset)
        if offset + 12 + size > len(data):
            return
        yield offset, data[offset + 4 : offset + 8], size
        offset += 12 + size


def _sum_holds(data: bytes, offset: int, size: int) -> bool:
    body = memoryview(data)[offset + 4 : offset + 8 + size]
    return data[offset + 8 + size : offset + 12 + size] == struct.pack(">I", zlib.crc32(body))


def _compressed(kind: bytes, rest: bytes) -> bytes:
    """The compressed part of a chunk of text, from behind its keyword; nothing where it is plain."""
    if kind == b"zTXt":
        return rest[1:]
    if kind == b"iTXt" and rest[:1] != b"\x00":
        return rest[2:].partition(b"\x00")[2].partition(b"\x00")[2]
    return b""


def _inflated(data: bytes, limit: int) -> bytes:
    """What zlib makes of it, at most one byte above the limit; nothing of what is no such data: pillow judges that."""
    try:
        return zlib.decompressobj().decompress(data, limit + 1)
    except zlib.error:
        return b""
