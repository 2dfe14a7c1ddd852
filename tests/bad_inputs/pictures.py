"""Rows 1 to 18 of the list of bad inputs: folders of pictures and what lies in them."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.bad_inputs.lab import GOOD, Case, Lab, Outcome, png, sets

PIXELS = "coders/test_pixels.py::"


def picture(mode: str = "RGB", size: tuple[int, int] = (20, 20), colour: object = None) -> Image.Image:
    return Image.new(mode, size, colour if colour is not None else 0)  # type: ignore[arg-type]


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(width: int, height: int, rows: bytes, bits: int = 1, colour: int = 0) -> bytes:
    """A PNG with the header as given and these bytes of pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def adds(*files: tuple[str, bytes]) -> Callable[[Lab], None]:
    """A maker that puts files among the good pictures."""

    def make(lab: Lab) -> None:
        for name, data in files:
            lab.add(name, data)

    return make


def all_good(lab: Lab, _outcome: Outcome) -> None:
    content = lab.manifest("latents")["content"]
    assert content["num_good"] == content["num_images"] > GOOD


def only_the_bad(lab: Lab, _outcome: Outcome) -> None:
    """The good pictures are all there, and the numbers of the manifest agree with errors.jsonl."""
    content = lab.manifest("latents")["content"]
    failed = [row for row in lab.left_out() if "row" in row]
    assert content["num_good"] == content["num_images"] - len(failed) == GOOD


def nothing_here(lab: Lab) -> tuple[str, ...]:
    (lab.folder / "notes").mkdir()
    (lab.folder / "notes" / "a.txt").write_text("x")
    return sets("source.path=notes")


def all_pages(lab: Lab) -> None:
    for number in range(20):
        lab.add(f"a{number}.jpg", b"<!DOCTYPE html><html>404</html>")


def none_good(lab: Lab) -> None:
    for path in (lab.folder / "pictures").glob("*.png"):
        path.write_bytes(b"")
    (lab.folder / "pictures" / "good5.png").unlink()


def cut_jpegs(lab: Lab) -> None:
    rng = np.random.default_rng(1)
    data = png(Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)), "JPEG")
    for share in (2, 50, 99):
        lab.add(f"cut{share}.jpg", data[: len(data) * share // 100])


def bad_sum() -> bytes:
    data = bytearray(png(picture()))
    data[data.index(b"IDAT") + 6] ^= 1
    return bytes(data)


def deep(lab: Lab) -> None:
    lab.add("gray16.png", png(Image.fromarray(np.full((20, 20), 32896, np.uint16))))
    lab.add("rgb16.png", raw_png(20, 20, (b"\0" + struct.pack(">HHH", 0, 32896, 65535) * 20) * 20, 16, 2))
    lab.add("float.tif", png(Image.fromarray(np.full((20, 20), 0.5, np.float32)), "TIFF"))


def modes(lab: Lab) -> None:
    lab.add("rgba.png", png(picture("RGBA", colour=(255, 0, 255, 0))))
    palette = picture("P")
    palette.putpalette([255, 0, 255, 0, 255, 0])
    lab.add("palette.png", png(palette, transparency=0))
    lab.add("la.png", png(picture("LA", colour=(9, 0))))
    lab.add("bit.png", png(picture("1")))
    lab.add("cmyk.jpg", png(picture("CMYK"), "JPEG"))
    lab.add("lab.tif", png(picture("LAB"), "TIFF"))


def exif(lab: Lab) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    lab.add("turned.jpg", png(picture(size=(30, 20)), "JPEG", exif=turned))
    lab.add("broken.jpg", png(picture(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))


def animation(frames: int) -> bytes:
    """One frame of a GIF again and again."""
    data = png(picture("P"), "GIF")
    start = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    return data[:start] + data[start:-1] * frames + b";"


def disguised(lab: Lab) -> None:
    lab.add("eps.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    lab.add("pdf.png", b"%PDF-1.7\n%...")
    lab.add("svg.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>')
    lab.add("heic.png", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


def names(lab: Lab) -> None:
    data = lab.shelf.pictures[0]
    for name in ("new\nline", "esc\x1b[31m", "[/b]", "%s", "caf\udcff", "\u202egpj", "x" * 251):
        lab.add(f"{name}.png", b"" if name in ("new\nline", "[/b]", "caf\udcff") else data, None)
        if len(name) < 200:
            lab.add(f"{name}.png", (lab.folder / "pictures" / f"{name}.png").read_bytes())


def keys_are_exact(lab: Lab, _outcome: Outcome) -> None:
    text = "".join(
        path.read_bytes().decode("utf-8", "surrogatepass")
        for path in sorted((lab.folder / "work" / "latents" / "documents").iterdir())
    )
    assert '"key": "caf\udcff"' in text
    assert '"key": "[/b]"' in text
    assert '"key": "new\\nline"' in text
    assert all(row["path"].isprintable() for row in lab.left_out())


def special(lab: Lab) -> None:
    folder = lab.folder / "pictures"
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.jpg").mkdir()
    (folder / "loop").symlink_to(folder)
    lab.patch.chdir(folder)  # a socket's path has to be short
    lab.open.enter_context(socket.socket(socket.AF_UNIX)).bind("socket.png")
    lab.patch.chdir(lab.folder)


def unreadable(lab: Lab) -> None:
    path = lab.add("secret.png", lab.shelf.pictures[0])
    real = os.access  # root may read everything, so the answer of the system is made up
    lab.patch.setattr(
        os, "access", lambda name, mode: str(name) != str(path.relative_to(lab.folder)) and real(name, mode)
    )


def link_out(lab: Lab) -> None:
    (lab.folder / "elsewhere.png").write_bytes(lab.shelf.pictures[0])
    (lab.folder / "pictures" / "link.png").symlink_to(lab.folder / "elsewhere.png")
    (lab.folder / "pictures" / "link.txt").write_text("a thing")


def table_out(lab: Lab) -> None:
    (lab.folder / "secret").write_text("file_name,text\n")
    (lab.folder / "pictures" / "metadata.csv").symlink_to(lab.folder / "secret")


def followed(lab: Lab) -> tuple[str, ...]:
    link_out(lab)
    return sets("source.follow_links=true")


CASES = [
    Case(1, "folder missing", lambda _: sets("source.path=pictuers"), 2, ("images folder not found", "did you mean pictures?")),
    Case(2, "folder without pictures", nothing_here, 3, ("no images in notes", "in 1 files")),
    Case(3, "file of no bytes", adds(("empty.png", b"")), 0, ("EMPTY_FILE",), check=only_the_bad),
    Case(4, "HTML saved as .jpg", adds(("page.jpg", b"<!DOCTYPE html><html>404</html>")), 0, ("NOT_AN_IMAGE (looks like HTML)",), check=only_the_bad),
    Case(4, "most pictures HTML", all_pages, 3, ("6 of the first 6 pictures cannot be used", "mostly NOT_AN_IMAGE (6), e.g. a13.jpg: looks like HTML"), note="encode.max_bad: more than 5 of the first 100, or more than 5 % later"),
    Case(4, "five pictures, none of them good", none_good, 3, ("no picture could be encoded",)),
    Case(5, "JPEG cut at 2, 50 and 99 %", cut_jpegs, 0, ("cut2.jpg: TRUNCATED", "cut50.jpg: TRUNCATED", "cut99.jpg: TRUNCATED"), check=only_the_bad),
    Case(6, "PNG with a wrong checksum", adds(("sum.png", bad_sum())), 0, ("CORRUPT",), check=only_the_bad),
    Case(7, "PNG header of 30000x30000", adds(("huge.png", raw_png(30000, 30000, b""))), 0, ("TOO_MANY_PIXELS (900.0 MP > 64 MP",), check=only_the_bad,
         note="decoding ends at the header: no memory is taken"),
    Case(8, "88 MP in a small PNG", lambda lab: lab.add("bomb.png", raw_png(11000, 8000, bytes(8000 * 1376))) and None, 0, ("TOO_MANY_PIXELS (88.0 MP",), check=only_the_bad),
    Case(9, "16 bits of grey and of RGB, float TIFF", deep, 0, ("goes through",), check=all_good,
         held=(PIXELS + "test_a_sixteen_bit_ramp_is_a_ramp", PIXELS + "test_sixteen_bit_rgb_keeps_its_tones")),
    Case(10, "transparent RGBA, P, LA; 1 bit, CMYK, LAB", modes, 0, ("goes through",), check=all_good,
         held=(PIXELS + "test_golden_colours", PIXELS + "test_cmyk_jpeg_of_adobe_is_not_inverted")),
    Case(11, "EXIF: turned; broken", exif, 0, ("counted: EXIF_BROKEN",), check=all_good,
         held=(PIXELS + "test_every_orientation_comes_out_upright", PIXELS + "test_a_zero_rational_in_exif_does_not_lose_the_orientation")),
    Case(12, "ICC profile broken", lambda lab: lab.add("icc.png", png(picture(), icc_profile=b"junk")) and None, 0, ("counted: ICC_BROKEN",), check=all_good,
         held=(PIXELS + "test_a_working_profile_is_applied_and_a_broken_one_is_a_note",)),
    Case(13, "GIF of 10,000 frames", adds(("film.gif", animation(10_000))), 0, ("counted: FIRST_FRAME",), check=all_good,
         held=(PIXELS + "test_ten_thousand_frames_cost_no_more_than_one",)),
    Case(14, "1x1, 60000x1, width 0", adds(("dot.png", png(picture(size=(1, 1)))), ("line.png", png(picture("L", (60000, 1)))), ("none.png", raw_png(0, 9, b""))), 0,
         ("dot.png: TOO_SMALL", "line.png: ASPECT (60000:1 > 8", "none.png: TOO_SMALL"), check=only_the_bad),
    Case(15, "EPS, PDF, SVG, HEIC named .png", disguised, 0, ("eps.png: FORMAT_NOT_ALLOWED (EPS", "pdf.png: FORMAT_NOT_ALLOWED (PDF", "svg.png: FORMAT_NOT_ALLOWED (SVG", "heic.png: FORMAT_NOT_ALLOWED (HEIC"), check=only_the_bad),
    Case(16, "names with line break, ANSI, [/b], %s, broken bytes, RTL, 255 bytes", names, 0, ("new\\nline.png: EMPTY_FILE", "[/b].png: EMPTY_FILE", "caf\\udcff.png: EMPTY_FILE", "CAPTION_MISSING"), check=keys_are_exact,
         note="the name of 255 bytes has no caption: there is no room for .txt"),
    Case(17, "pipe, socket, folder named x.jpg, link to the folder above", special, 0, ("pipe.png: SKIPPED_SPECIAL", "socket.png: SKIPPED_SPECIAL", "loop: SKIPPED_LINK")),
    Case(17, "link to the folder above, followed", lambda lab: special(lab) or sets("source.follow_links=true"), 0, ("loop: SKIPPED_SPECIAL (a link to a folder that contains it)",)),
    Case(17, "picture that may not be read", unreadable, 0, ("secret.png: PERMISSION",)),
    Case(18, "link out of the folder", link_out, 0, ("link.png: SKIPPED_LINK",)),
    Case(18, "metadata.csv that is a link out of the folder", table_out, 0, ("metadata.csv: SKIPPED_LINK",), note="captions come from the .txt files"),
    Case(18, "picture behind a link, with follow_links", followed, 0, ("goes through",), check=all_good),
]  # fmt: skip
