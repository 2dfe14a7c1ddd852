"""Every depth and type of colour of PNG and TIFF against golden values, and PNG files with much text or a large profile. The
files are written by hand, so that the values do not come from the library that reads them."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from stages.coders import png as png_module
from stages.coders.header import glance
from stages.coders.pixels import BadImage, PixelPolicy, decode, upright_rgb
from tests.coders.test_pixels import POLICY, chunk, png

SIDE = 16
BACKGROUNDS = {"white": 255, "black": 0}


def samples(values: tuple[int, ...], depth: int, order: str = ">") -> bytes:
    """A row of SIDE equal pixels."""
    if depth == 16:
        return struct.pack(f"{order}{len(values)}H", *values) * SIDE
    bits = "".join(f"{value:0{depth}b}" for value in values) * SIDE
    return int(bits, 2).to_bytes(-(-len(bits) // 8), "big")


def png_of(colour: int, depth: int, values: tuple[int, ...], *extra: bytes) -> bytes:
    return png(SIDE, SIDE, depth, colour, (b"\x00" + samples(values, depth)) * SIDE, *extra)


def clear(*values: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def palette(*colours: tuple[int, int, int]) -> bytes:
    return chunk(b"PLTE", b"".join(map(bytes, colours)))


RED_AND_BLUE = palette((200, 10, 20), (10, 20, 200))

# type of colour, bits, samples, the chunk for transparency, what shows (None: whatever lies behind)
PNGS = [
    *[(0, bits, (0,), (), (0, 0, 0)) for bits in (1, 2, 4, 8, 16)],
    *[(0, bits, ((1 << bits) - 1,), (), (255, 255, 255)) for bits in (1, 2, 4, 8, 16)],
    (0, 2, (1,), (), (85, 85, 85)),
    (0, 4, (5,), (), (85, 85, 85)),
    (0, 8, (85,), (), (85, 85, 85)),
    (0, 16, (85 * 257,), (), (85, 85, 85)),
    # grey: the very value is transparent, and no other one
    *[(0, bits, (value,), (clear(value),), None) for bits in (1, 2, 4, 8, 16) for value in (0, 1, (1 << bits) - 1)],
    (0, 1, (1,), (clear(0),), (255, 255, 255)),
    (0, 1, (0,), (clear(1),), (0, 0, 0)),
    (0, 2, (1,), (clear(2),), (85, 85, 85)),
    (0, 4, (5,), (clear(4),), (85, 85, 85)),
    (0, 4, (5,), (clear(85),), None),  # bits above the depth are not looked at: 85 is 5 there
    (0, 8, (85,), (clear(84),), (85, 85, 85)),
    (0, 8, (85,), (clear(256 + 85),), None),
    (0, 16, (85 * 257,), (clear(85 * 257 + 1),), (85, 85, 85)),
    # RGB
    (2, 8, (10, 20, 30), (), (10, 20, 30)),
    (2, 8, (10, 20, 30), (clear(10, 20, 30),), None),
    (2, 8, (10, 20, 30), (clear(10, 20, 31),), (10, 20, 30)),
    (2, 16, (10 * 257, 20 * 257, 30 * 257), (), (10, 20, 30)),
    (2, 16, (0xFF01, 0xFF02, 0xFF03), (clear(0xFF01, 0xFF02, 0xFF03),), None),
    (2, 16, (0x0102, 0x0304, 0x0506), (clear(0x0102, 0x0304, 0x0506),), None),
    (2, 16, (0x0A02, 0x1404, 0x1E06), (clear(0x0A02, 0x1404, 0x1E07),), (10, 20, 30)),
    (2, 16, (0x0A02, 0x1404, 0x1E06), (clear(0x0B02, 0x1404, 0x1E06),), (10, 20, 30)),
    # palette
    *[(3, bits, (1,), (RED_AND_BLUE,), (10, 20, 200)) for bits in (1, 2, 4, 8)],
    *[(3, bits, (1,), (RED_AND_BLUE, chunk(b"tRNS", b"\xff\x00")), None) for bits in (1, 2, 4, 8)],
    *[(3, bits, (0,), (RED_AND_BLUE, chunk(b"tRNS", b"\xff\x00")), (200, 10, 20)) for bits in (1, 2, 4, 8)],
    *[(3, bits, (0,), (RED_AND_BLUE, chunk(b"tRNS", b"\x00")), None) for bits in (1, 2, 4, 8)],
    # alpha of its own
    (4, 8, (85, 255), (), (85, 85, 85)),
    (4, 8, (85, 0), (), None),
    (4, 16, (85 * 257, 65535), (), (85, 85, 85)),
    (4, 16, (85 * 257, 0), (), None),
    (6, 8, (10, 20, 30, 255), (), (10, 20, 30)),
    (6, 8, (10, 20, 30, 0), (), None),
    (6, 16, (2570, 5140, 7710, 65535), (), (10, 20, 30)),
    (6, 16, (2570, 5140, 7710, 0), (), None),
]


@pytest.mark.parametrize(("colour", "depth", "values", "extra", "shown"), PNGS)
@pytest.mark.parametrize("interlaced", [False, True])
def test_png(
    colour: int,
    depth: int,
    values: tuple[int, ...],
    extra: tuple[bytes, ...],
    shown: tuple[int, int, int] | None,
    interlaced: bool,
) -> None:
    data = interlaced_png(colour, depth, values, *extra) if interlaced else png_of(colour, depth, values, *extra)
    check(data, shown)


def interlaced_png(colour: int, depth: int, values: tuple[int, ...], *extra: bytes) -> bytes:
    """The same in the seven passes of Adam7: their rows, from the widths and heights of passes over 16 x 16."""
    sizes = [(2, 2), (2, 2), (4, 2), (4, 4), (8, 4), (8, 8), (16, 8)]
    raw = b""
    for width, height in sizes:
        row = samples(values, depth)[: -(-width * len(values) * depth // 8)]
        raw += (b"\x00" + row) * height
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, depth, colour, 0, 0, 1))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def check(data: bytes, shown: tuple[int, int, int] | None) -> None:
    for alpha, behind in BACKGROUNDS.items():
        pixels = decode(data, PixelPolicy.model_validate({"alpha": alpha})).pixels
        expected = (behind, behind, behind) if shown is None else shown
        assert pixels.shape == (SIDE, SIDE, 3)
        assert (pixels == expected).all(), (alpha, pixels[0, 0])
    if shown is None:
        with pytest.raises(BadImage, match="ALPHA"):
            decode(data, PixelPolicy(alpha="skip"))
    else:
        decode(data, PixelPolicy(alpha="skip"))


def test_only_pixels_of_that_colour_are_transparent_and_they_are_turned_with_the_picture() -> None:
    """16 bits: 0x0101 in one corner, and 0x0102 and 0x0201 elsewhere, which share a byte with it."""
    values = np.full((SIDE, SIDE, 3), 0x0102, ">u2")
    values[:, 8:] = 0x0201
    values[0, 0] = 0x0101
    raw = b"".join(b"\x00" + row.tobytes() for row in values)
    exif = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x03\x00\x00\x00\x00\x00\x00"  # by 180 degrees
    pixels = decode(png(SIDE, SIDE, 16, 2, raw, clear(0x0101, 0x0101, 0x0101), chunk(b"eXIf", exif)), POLICY).pixels
    assert np.argwhere((pixels == 255).all(-1)).tolist() == [[SIDE - 1, SIDE - 1]]


def test_an_opened_picture_is_decoded_as_its_file_is() -> None:
    data = png_of(0, 4, (5,), clear(5))
    assert upright_rgb(Image.open(io.BytesIO(data)), POLICY).getpixel((0, 0)) == (255, 255, 255)


def tiff(
    photometric: int, depths: tuple[int, ...], row: bytes, *tags: tuple[int, int, tuple[int, ...]], order: str = "<"
) -> bytes:
    """An uncompressed TIFF of one strip. tags: (number, type, values) beside those of every picture."""
    formats = {3: "H", 4: "I"}
    all_tags = [
        (256, 3, (SIDE,)),
        (257, 3, (SIDE,)),
        (258, 3, depths),
        (259, 3, (1,)),
        (262, 3, (photometric,)),
        (273, 4, (8,)),
        (277, 3, (len(depths),)),
        (278, 3, (SIDE,)),
        (279, 4, (len(row) * SIDE,)),
        *tags,
    ]
    pixels = row * SIDE
    directory = 8 + len(pixels)
    outside = directory + 2 + 12 * len(all_tags) + 4
    entries, more = b"", b""
    for number, kind, values in sorted(all_tags):
        packed = struct.pack(f"{order}{len(values)}{formats[kind]}", *values)
        if len(packed) > 4:
            field = struct.pack(f"{order}I", outside + len(more))
            more += packed + b"\x00" * (len(packed) % 2)
        else:
            field = packed.ljust(4, b"\x00")
        entries += struct.pack(f"{order}HHI", number, kind, len(values)) + field
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, directory)
    return head + pixels + struct.pack(f"{order}H", len(all_tags)) + entries + struct.pack(f"{order}I", 0) + more


def extra_samples(kind: int) -> tuple[int, int, tuple[int, ...]]:
    """0: not said what, 1: alpha that the colours are multiplied by, 2: alpha."""
    return (338, 3, (kind,))


def colour_map(depth: int) -> tuple[int, int, tuple[int, ...]]:
    """Entry 1 is (10, 20, 200), the others (200, 10, 20)."""
    count = 1 << depth
    return (
        320,
        3,
        tuple(
            other * 257
            for first, other_first in ((10, 200), (20, 10), (200, 20))
            for other in [first if place == 1 else other_first for place in range(count)]
        ),
    )


# photometric (0: 0 is white, 1: 0 is black, 2: RGB, 3: palette, 5: CMYK), bits of each sample, samples, tags, what shows
TIFFS = [
    *[(0, (bits,), (0,), (), (255, 255, 255)) for bits in (1, 2, 4, 8, 16)],
    *[(1, (bits,), (0,), (), (0, 0, 0)) for bits in (1, 2, 4, 8, 12, 16)],
    *[(0, (bits,), ((1 << bits) - 1,), (), (0, 0, 0)) for bits in (1, 2, 4, 8, 16)],
    *[(1, (bits,), ((1 << bits) - 1,), (), (255, 255, 255)) for bits in (1, 2, 4, 8, 12, 16)],
    (0, (2,), (1,), (), (170, 170, 170)),
    (1, (2,), (1,), (), (85, 85, 85)),
    (0, (4,), (5,), (), (170, 170, 170)),
    (1, (4,), (5,), (), (85, 85, 85)),
    (0, (8,), (85,), (), (170, 170, 170)),
    (1, (8,), (85,), (), (85, 85, 85)),
    (1, (12,), (1365,), (), (85, 85, 85)),
    (0, (16,), (85 * 257,), (), (170, 170, 170)),
    (1, (16,), (85 * 257,), (), (85, 85, 85)),
    (1, (8, 8), (85, 255), (extra_samples(2),), (85, 85, 85)),
    (1, (8, 8), (85, 0), (extra_samples(2),), None),
    (1, (8, 8), (0, 0), (extra_samples(1),), None),
    (1, (8, 8), (85, 0), (extra_samples(0),), (85, 85, 85)),
    (2, (8, 8, 8), (10, 20, 30), (), (10, 20, 30)),
    (2, (16, 16, 16), (2570, 5140, 7710), (), (10, 20, 30)),
    (2, (8, 8, 8, 8), (10, 20, 30, 255), (extra_samples(2),), (10, 20, 30)),
    (2, (8, 8, 8, 8), (10, 20, 30, 0), (extra_samples(2),), None),
    (2, (8, 8, 8, 8), (0, 0, 0, 0), (extra_samples(1),), None),
    (2, (8, 8, 8, 8), (10, 20, 30, 0), (extra_samples(0),), (10, 20, 30)),
    (2, (16, 16, 16, 16), (2570, 5140, 7710, 65535), (extra_samples(2),), (10, 20, 30)),
    (2, (16, 16, 16, 16), (2570, 5140, 7710, 0), (extra_samples(2),), None),
    (2, (16, 16, 16, 16), (0, 0, 0, 0), (extra_samples(1),), None),
    (2, (16, 16, 16, 16), (2570, 5140, 7710, 0), (extra_samples(0),), (10, 20, 30)),
    *[(3, (bits,), (1,), (colour_map(bits),), (10, 20, 200)) for bits in (1, 2, 4, 8)],
    *[(3, (bits,), (0,), (colour_map(bits),), (200, 10, 20)) for bits in (1, 2, 4, 8)],
    (5, (8, 8, 8, 8), (0, 255, 255, 0), (), (255, 0, 0)),
    (5, (16, 16, 16, 16), (0, 65535, 65535, 0), (), (255, 0, 0)),
]


@pytest.mark.parametrize(("photometric", "depths", "values", "tags", "shown"), TIFFS)
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff(
    photometric: int,
    depths: tuple[int, ...],
    values: tuple[int, ...],
    tags: tuple[tuple[int, int, tuple[int, ...]], ...],
    shown: tuple[int, int, int] | None,
    order: str,
) -> None:
    data = tiff(photometric, depths, samples(values, depths[0], order), *tags, order=order)
    if order == ">" and (depths == (12,) or (photometric, depths) == (0, (16,))):
        with pytest.raises(BadImage):  # pillow opens these two as little-endian alone
            decode(data, POLICY)
        return
    check(data, shown)


# text and profiles

ROWS = (b"\x00" + b"\x01\x02\x03" * SIDE) * SIDE
PIXEL = [1, 2, 3]


@cache
def of_zeros(mebibytes: int) -> bytes:
    packer, piece = zlib.compressobj(9), bytes(1 << 20)
    return b"".join([*(packer.compress(piece) for _ in range(mebibytes)), packer.flush()])


def one_pixel(*extra: bytes) -> list[int]:
    return list(map(int, decode(png(SIDE, SIDE, 8, 2, ROWS, *extra), POLICY).pixels[3, 3]))


@pytest.mark.parametrize(
    "text",
    [
        chunk(b"zTXt", b"Comment\x00\x00" + of_zeros(2)),
        chunk(b"iTXt", b"Comment\x00\x01\x00\x00\x00" + of_zeros(2)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x01\x00\x00\x00" + of_zeros(2)),
        chunk(b"zTXt", b"Raw profile type exif\x00\x00" + of_zeros(2)),
        chunk(b"tEXt", b"parameters\x00" + b"a" * (2 << 20)),
        chunk(b"tEXt", b"workflow\x00" + b"a" * (40 << 20)),
    ],
)
def test_much_text_does_not_matter(text: bytes) -> None:
    assert one_pixel(text) == PIXEL
    assert glance(png(SIDE, SIDE, 8, 2, ROWS, text)) is not None


def test_text_behind_the_pixels_does_not_matter() -> None:
    end = chunk(b"IEND", b"")
    data = png(SIDE, SIDE, 8, 2, ROWS).removesuffix(end) + chunk(b"zTXt", b"Comment\x00\x00" + of_zeros(2)) + end
    assert decode(data, POLICY).pixels[3, 3].tolist() == PIXEL


def test_text_that_says_how_to_turn_the_picture_is_read() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x01\x00\x00\x00" + zlib.compress(xmp))
    data = png(SIDE, 2 * SIDE, 8, 2, ROWS * 2, text, chunk(b"zTXt", b"Comment\x00\x00" + of_zeros(2)))
    assert decode(data, POLICY).image.size == (2 * SIDE, SIDE)


def profile_chunk(profile: bytes) -> bytes:
    return chunk(b"iCCP", b"a profile\x00\x00" + zlib.compress(profile, 1))


def swapped_profile(size: int) -> bytes:
    """An sRGB profile with red and blue exchanged, filled up to `size`."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return srgb.replace(b"rXYZ", b"tmp!").replace(b"bXYZ", b"rXYZ").replace(b"tmp!", b"bXYZ").ljust(size, b"\x00")


def test_a_large_profile_is_applied_as_a_small_one_is() -> None:
    small = one_pixel(profile_chunk(swapped_profile(0)))
    assert small != PIXEL
    assert one_pixel(profile_chunk(swapped_profile(3 << 20))) == small


def test_a_profile_above_all_bounds_is_passed_over_and_noted() -> None:
    data = png(SIDE, SIDE, 8, 2, ROWS, profile_chunk(swapped_profile(5 << 20)))
    decoded = decode(data, POLICY)
    assert decoded.notes == ("ICC_BROKEN",)
    assert decoded.pixels[3, 3].tolist() == PIXEL


def test_a_damaged_large_profile_is_no_profile() -> None:
    bad = bytearray(profile_chunk(swapped_profile(3 << 20)))
    bad[-1] ^= 1
    with pytest.raises(BadImage, match="CORRUPT"):
        one_pixel(bytes(bad))


BOMB = """import resource, sys, time
from stages.coders.pixels import PixelPolicy, decode
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
print(decode(data, PixelPolicy()).pixels[3, 3].tolist())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - began)
"""


@pytest.mark.parametrize("kind", ["Comment", "XML:com.adobe.xmp", "profile"])
def test_bombs_of_a_gigabyte_stay_in_bounds(kind: str, tmp_path: Path) -> None:
    """In a process of its own, whose memory is its own. Several in one file."""
    zeros = of_zeros(1024)
    one = (
        chunk(b"iCCP", b"a\x00\x00" + zeros)
        if kind == "profile"
        else chunk(b"zTXt", kind.encode() + b"\x00\x00" + zeros)
    )
    file = tmp_path / "bomb.png"
    file.write_bytes(png(SIDE, SIDE, 8, 2, ROWS, *[one] * 20))
    done = subprocess.run([sys.executable, "-c", BOMB, str(file)], capture_output=True, text=True, check=True)
    pixel, figures = done.stdout.splitlines()
    kib, seconds = map(float, figures.split())
    assert pixel == str(PIXEL)
    assert kib < 100 << 10
    assert seconds < 10


def test_few_chunks_of_one_file_are_inflated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may hold any number of them, each a bomb in bounds; those beyond the first are dropped unread."""
    real, calls = png_module._inflated, []
    monkeypatch.setattr(png_module, "_inflated", lambda *given: (calls.append(1), real(*given))[1])
    text = chunk(b"zTXt", b"XML:com.adobe.xmp\x00\x00" + zlib.compress(b"about"))
    found = png_module.openable(png(SIDE, SIDE, 8, 2, ROWS, *[text] * 200))
    assert len(calls) == 16
    assert found.data.count(b"XML:com.adobe.xmp") == 16
