"""What a file is by its first bytes: reads the head of a would-be picture, makes a name for people. Decodes nothing."""

from __future__ import annotations

import struct

# Formats that pillow or a person might take for a picture but that tfcli does not open: (offset, magic, name).
_REFUSED = (
    (0, b"%!PS", "EPS"),
    (0, b"\xc5\xd0\xd3\xc6", "EPS"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "PSD"),
    (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"\x00\x00\x02\x00", "CUR"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG2000"),
    (0, b"\x00\x00\x00\x0cJXL ", "JPEGXL"),
    (0, b"\xff\x0a", "JPEGXL"),
    (0, b"\xd7\xcd\xc6\x9a", "WMF"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"icns", "ICNS"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\x89HDF\r\n", "HDF5"),
    (0, b"GRIB", "GRIB"),
    (0, b"gimp xcf", "XCF"),
    (0, b"P1\n", "PBM"),
    (0, b"P2\n", "PGM"),
    (0, b"P3\n", "PPM"),
    (0, b"P4\n", "PBM"),
    (0, b"P5\n", "PGM"),
    (0, b"P6\n", "PPM"),
)
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_OTHER = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x7fELF", "a program"),
    (b"\x80\x04", "a pickle"),
    (b"version https://git-lfs", "a git-lfs pointer, run git lfs pull"),
)
_ALLOWED = (
    (b"\xff\xd8", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)


def refused_format(data: bytes) -> str | None:
    """The name of a picture format that is not opened, or None."""
    for offset, magic, name in _REFUSED:
        if data[offset : offset + len(magic)] == magic:
            return name
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return "HEIC"
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head):
        return "SVG"
    return None


def allowed_format(data: bytes) -> str | None:
    """The name of an allowed format by its magic number, or None. The rest of the file may still be broken."""
    for magic, name in _ALLOWED:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis"):
        return "AVIF"
    return None


def looks_like(data: bytes) -> str:
    """What a file that is no picture seems to be: "HTML", "text", "unknown data" ..."""
    for magic, name in _OTHER:
        if data.startswith(magic):
            return name
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")) or b"<html" in head:
        return "HTML"
    if head.startswith(b"<?xml"):
        return "XML"
    if head.startswith((b"{", b"[")):
        return "JSON"
    if not any(data[:1024]):
        return "zeros"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in data[:1024]):
        return "text"
    return "unknown data"


def lacks_end(data: bytes) -> bool:
    """Whether the end mark of the format is missing: the file was cut, rather than damaged."""
    name = allowed_format(data)
    if name == "JPEG":
        return b"\xff\xd9" not in data[-512:]
    if name == "PNG":
        return b"IEND" not in data[-512:]
    if name == "GIF":
        return not data.rstrip(b"\x00").endswith(b";")
    if name == "WEBP":
        return len(data) < 12 or struct.unpack("<I", data[4:8])[0] + 8 > len(data)
    if name == "BMP":
        return len(data) < 14 or struct.unpack("<I", data[2:6])[0] > len(data)
    return False


def header_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) as the header claims, for formats that have them at a fixed offset; None for the others."""
    name = allowed_format(data)
    if name == "PNG" and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    if name == "GIF" and len(data) >= 10:
        return struct.unpack("<HH", data[6:10])
    if name == "BMP" and len(data) >= 26:
        width, height = struct.unpack("<ii", data[18:26])
        return width, abs(height)
    return None
