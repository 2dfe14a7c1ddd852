"""Image bytes <-> uint8 RGB pixels. The only reader of pictures; runs in worker processes, so it imports no torch.

`decode` makes pixels of any file or raises BadImage with a reason code: a hostile file costs one picture, never the
run. Everything that could make a picture look wrong without an error (16 bits, alpha, orientation, colour profile) is
handled here and tested with golden values.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageChops, ImageCms, PngImagePlugin, UnidentifiedImageError
from pydantic import Field

from stages.coders import png, sniff
from stages.core.config import Section

Pixels = np.ndarray[Any, np.dtype[np.uint8]]  # (height, width, 3) RGB
PilImage = Image.Image  # for annotations elsewhere

# pillow knows 43 formats, some of which start other programs; each one more is more native code open to hostile files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FILTER = Image.Resampling.BICUBIC  # takes two thirds of the time of LANCZOS
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262  # tags
_WHITE_IS_ZERO = 0


class PixelPolicy(Section):
    """What counts as a usable picture."""

    max_pixels: int = Field(64_000_000, gt=0)
    """The most pixels of a picture as it is stored, width times height."""
    max_bytes: int = Field(64 << 20, gt=0, le=256 << 20)  # the upper bound is MAX_READ_BYTES of stages.sources.document
    """The most bytes of a picture's file."""
    min_size: int = Field(8, ge=1)
    """The fewest pixels of the shorter side."""
    max_aspect: float = Field(8.0, ge=1)
    """The largest ratio of the longer side to the shorter."""
    max_seconds: float = Field(30.0, gt=0)
    """The longest time in seconds to decode one picture; not held where --workers is 0."""
    alpha: Literal["white", "black", "skip"] = "white"
    """The background behind transparent pixels, or "skip" to leave such pictures out."""
    animated: Literal["first", "skip"] = "first"
    """What becomes of a picture with several frames: its first frame, or left out."""


class BadImage(Exception):
    """A picture that cannot be used. `reason` is an upper-case code, `message` a line for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Decoded:
    """An RGB image and codes of what was done or passed over: FIRST_FRAME, EXIF_BROKEN, ICC_BROKEN."""

    image: Image.Image
    notes: tuple[str, ...]

    @property
    def pixels(self) -> Pixels:
        """(height, width, 3)."""
        return np.array(self.image)


def decode(data: bytes, policy: PixelPolicy, least: int = 0) -> Decoded:
    """An encoded picture, upright, in sRGB, over the policy's background; or BadImage with a reason.

    least: pixels of the shorter side that are enough. A JPEG file of more is decoded at a half, a quarter or an eighth of its
    size as long as that many are left: its blocks are averaged as they are decoded, which for a photo of 12 MP takes a fifth
    of the time.
    """
    if not data:
        raise BadImage("EMPTY_FILE", "the file has no bytes")
    if len(data) > policy.max_bytes:
        raise BadImage("TOO_MANY_BYTES", f"more than {policy.max_bytes / 2**20:g} MiB (max_bytes)")
    notes: list[str] = []
    readable = png.openable(data) if data.startswith(png.MAGIC) else png.Readable(data)
    with _guarded(policy) as caught:
        try:
            with Image.open(io.BytesIO(readable.data), formats=FORMATS) as image:
                _check_size(image.size, policy)
                _check_frames(image, policy, notes)
                if least and image.format in ("JPEG", "MPO"):
                    shorter = min(image.size)
                    image.draft(None, (-(-image.size[0] * least // shorter), -(-image.size[1] * least // shorter)))
                image.load()
                clear = _settle_png(image, readable, notes) if image.format == "PNG" else None
                rgb = _upright(_to_rgb(image, policy, notes, clear), image, notes)
        except BadImage:
            raise
        except UnidentifiedImageError as error:
            raise _unidentified(data) from error
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            found = re.search(r"\((\d+) pixels\)", str(error))
            raise _too_many_pixels(int(found[1]) if found else policy.max_pixels + 1, policy) from error
        except Exception as error:
            # a decoder may raise anything on a hostile file: ZeroDivisionError, SyntaxError, struct.error, MemoryError
            raise _broken(data, error) from error
    if any("EXIF" in str(warning.message) for warning in caught) and "EXIF_BROKEN" not in notes:
        notes.append("EXIF_BROKEN")
    return Decoded(rgb, tuple(notes))


def to_image(pixels: Pixels) -> Image.Image:
    """Pixels (height, width, 3) as an image."""
    return Image.fromarray(pixels)


def upright_rgb(image: object, policy: PixelPolicy) -> Image.Image:
    """An opened pillow image as `decode` makes of a file. TypeError where it is something else, BadImage where it is refused."""
    if not isinstance(image, Image.Image):
        raise TypeError(f"a {type(image).__name__} is no picture")
    if isinstance(image, PngImagePlugin.PngImageFile) and image.tile and image.fp is not None:
        # not loaded yet: as the file that it is, pillow alone loses transparent colours of it
        image.fp.seek(0)
        return decode(image.fp.read(policy.max_bytes + 1), policy).image
    _check_size(image.size, policy)
    return _upright(_to_rgb(image, policy, [], None), image, [])


def crop(image: Image.Image, height: int, width: int) -> Pixels:
    """A (height, width, 3) picture: the largest part of that aspect around the centre, resized with antialiasing."""
    return np.array(image.resize((width, height), _FILTER, box=crop_box(image.size, height, width)))


def crop_box(size: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of that part of a picture of `size`, its width and height."""
    old_width, old_height = size
    if old_width * height > old_height * width:
        cut_height, cut_width = old_height, max(1, round(old_height * width / height))
    else:
        cut_height, cut_width = max(1, round(old_width * height / width)), old_width
    top, left = (old_height - cut_height) // 2, (old_width - cut_width) // 2
    return left, top, left + cut_width, top + cut_height


def pad(image: Image.Image, size: int) -> Pixels:
    """A (size, size, 3) picture: all of it in the middle of a white square, resized with antialiasing."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.size[0]) // 2, (side - image.size[1]) // 2))
    return np.array(square.resize((size, size), _FILTER))


def encode_png(pixels: Pixels, text: dict[str, str] | None = None) -> bytes:
    """A PNG file; `text` becomes text chunks (keys: 1 to 79 Latin-1 characters)."""
    chunks = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        # lone surrogates and NUL have no place in a PNG text chunk
        chunks.add_itxt(key, value.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00"))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=chunks, compress_level=6)
    return buffer.getvalue()


def encode_gif(frames: Sequence[Pixels], frame_ms: int = 80, last_ms: int = 1500) -> bytes:
    """An endless animation of at most 256 colours a frame, which rests on its last frame. Small pictures are enlarged, as
    viewers smooth them."""
    scale = max(1, 256 // min(frames[-1].shape[:2]))
    images = [Image.fromarray(frame.repeat(scale, 0).repeat(scale, 1)) for frame in frames]
    buffer = io.BytesIO()
    times = [frame_ms] * (len(images) - 1) + [last_ms]
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0)
    return buffer.getvalue()


@contextmanager
def _guarded(policy: PixelPolicy) -> Iterator[list[warnings.WarningMessage]]:
    """pillow's own pixel limit set to ours and made an error (it warns up to twice the limit); other warnings kept."""
    previous = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = policy.max_pixels
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield caught
    finally:
        Image.MAX_IMAGE_PIXELS = previous


def _too_many_pixels(found: int, policy: PixelPolicy) -> BadImage:
    return BadImage("TOO_MANY_PIXELS", f"{found / 1e6:.1f} MP > {policy.max_pixels / 1e6:g} MP (max_pixels)")


def _check_size(size: tuple[int, int], policy: PixelPolicy) -> None:
    """From the header alone, before any pixel is decoded."""
    longer, shorter = max(size), min(size)
    if longer * shorter > policy.max_pixels:
        raise _too_many_pixels(longer * shorter, policy)
    if shorter > 0 and longer / shorter > policy.max_aspect:
        raise BadImage("ASPECT", f"{longer / shorter:g}:1 > {policy.max_aspect:g} (max_aspect)")
    if shorter < policy.min_size:
        raise BadImage("TOO_SMALL", f"{size[0]}x{size[1]}, shorter side < {policy.min_size} (min_size)")


def _check_frames(image: Image.Image, policy: PixelPolicy, notes: list[str]) -> None:
    # `is_animated` looks for a second frame; `n_frames` would walk through all of them. A phone's MPO is one picture
    # with a preview.
    if image.format == "MPO" or not getattr(image, "is_animated", False):
        return
    if policy.animated == "skip":
        raise BadImage("ANIMATED", "more than one frame (animated = skip)")
    image.seek(0)
    notes.append("FIRST_FRAME")


def _settle_png(image: Image.Image, readable: png.Readable, notes: list[str]) -> Image.Image | None:
    """What pillow leaves open in a PNG: the sum of the last chunk, a large profile, and alpha of the one colour that stands for
    transparent (None where there is none)."""
    if png.sum_is_wrong(readable.data):
        raise BadImage("CORRUPT", "the checksum of its pixels is wrong")
    if readable.profile is not None:
        image.info["icc_profile"] = readable.profile
    if readable.profile_too_large:
        notes.append("ICC_BROKEN")
    return _alpha_of_colour(image, readable.data)


def _alpha_of_colour(image: Image.Image, data: bytes) -> Image.Image | None:
    """Alpha of a PNG with one transparent colour. pillow compares that with samples that it has scaled to 8 bits, or cut to
    their high bytes, so that 2 and 4 bits of grey and 16 of RGB would stay opaque."""
    colour, depth = png.clear_colour(data), png.bit_depth(data)
    if colour is None:
        return None
    image.info.pop("transparency", None)
    if len(colour) == 1 and depth == 16:
        return Image.fromarray(np.where(np.array(image) == colour[0], 0, 255).astype(np.uint8))
    if depth < 16:
        scale = 255 // ((1 << depth) - 1)
        return _differs(image, [sample * scale for sample in colour])
    with Image.open(io.BytesIO(data), formats=("PNG",)) as low:
        # as if little-endian: then what pillow keeps of each sample is its low byte
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
        low.load()
        lows = _differs(low, [sample & 255 for sample in colour])
    return ImageChops.lighter(_differs(image, [sample >> 8 for sample in colour]), lows)


def _differs(image: Image.Image, colour: Sequence[int]) -> Image.Image:
    """255 where 8-bit samples are another colour, 0 where they are this one."""
    channels = (image.convert("L") if image.mode == "1" else image).split()
    found = [
        channel.point([0 if value == sample else 255 for value in range(256)])
        for channel, sample in zip(channels, colour, strict=True)
    ]
    for each in found[1:]:
        found[0] = ImageChops.lighter(found[0], each)
    return found[0]


def _upright(rgb: Image.Image, image: Image.Image, notes: list[str]) -> Image.Image:
    """The picture turned as EXIF of the file says that it came from. Only that tag is read: ImageOps.exif_transpose also writes
    the EXIF block again, which fails on a rational of 0/0 somewhere else in it."""
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # the parser of a broken EXIF block raises anything; the pixels are good all the same
        notes.append("EXIF_BROKEN")
        return rgb
    return rgb if method is None else rgb.transpose(method)


def _to_rgb(image: Image.Image, policy: PixelPolicy, notes: list[str], clear: Image.Image | None) -> Image.Image:
    """8-bit RGB from any mode that pillow opens. clear: alpha that the picture itself does not carry."""
    if image.mode == "F" or image.mode.startswith("I"):
        colour, alpha = _deep_grey(image)
    else:
        colour, alpha = _split_alpha(image)
    alpha = alpha if clear is None else clear
    rgb = _to_srgb(colour, image.info.get("icc_profile"), notes)
    if alpha is None or alpha.getextrema() == (255, 255):
        return rgb
    if policy.alpha == "skip":
        raise BadImage("ALPHA", "has transparent pixels (alpha = skip)")
    # before any resizing: the hidden colours of transparent pixels must not bleed into their neighbours
    background = Image.new("RGB", rgb.size, policy.alpha)
    background.paste(rgb, mask=alpha)
    return background


def _deep_grey(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """More than 8 bits of grey. pillow's own convert() clips at 255: 99.6 % of a 16-bit picture turns white. Nor does it scale
    12 bits, or turn a TIFF around of which 0 is white."""
    values = np.array(image)
    low, high = float(values.min()), float(values.max())
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        top = 1.0 if high <= 1 else 255.0
    else:
        top = 4095.0 if tags.get(_TIFF_BITS) == (12,) else 65535.0
    if not (low >= 0 and high <= top):  # also true for NaN
        raise BadImage("RANGE", f"grey values from {low:g} to {high:g} lie outside 0 to {top:g}")
    if image.mode == "F" or top == 4095:
        grey = np.floor(values * (255 / top) + 0.5).astype(np.uint8)
    else:
        grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    clear = image.info.get("transparency")
    alpha = np.where(values == clear, 0, 255).astype(np.uint8) if isinstance(clear, int) else None
    return Image.fromarray(grey), None if alpha is None else Image.fromarray(alpha)


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """(colours without alpha, alpha or None)."""
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBa", "PA") or (image.mode in ("P", "1", "L", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA")
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.mode == "RGBA":
        return image.convert("RGB"), image.getchannel("A")
    if image.mode in ("P", "1"):
        return image.convert("RGB"), None
    return image, None


def _to_srgb(image: Image.Image, profile_bytes: bytes | None, notes: list[str]) -> Image.Image:
    """sRGB through the picture's own profile if it has one that works, by pillow's formulas otherwise."""
    if profile_bytes:
        try:
            if len(profile_bytes) > png.MAX_PROFILE_BYTES:
                raise ValueError("profile too large")
            profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_bytes))
            if image.mode == "L" and profile.profile.xcolor_space.strip() == "RGB":
                image = image.convert("RGB")
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert converted is not None
            return converted
        except Exception:  # a broken or unfitting profile: the picture is shown as if it had none, and counted
            notes.append("ICC_BROKEN")
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        return converted
    return image.convert("RGB")


def _unidentified(data: bytes) -> BadImage:
    if name := sniff.refused_format(data):
        return BadImage("FORMAT_NOT_ALLOWED", f"{name} (allowed: {', '.join(FORMATS)})")
    name = sniff.allowed_format(data)
    if name is None:
        return BadImage("NOT_AN_IMAGE", f"looks like {sniff.looks_like(data)}")
    size = sniff.header_size(data)
    if size is not None and min(size) <= 0:
        return BadImage("TOO_SMALL", f"the {name} header says {size[0]}x{size[1]}")
    if sniff.lacks_end(data):
        return BadImage("TRUNCATED", f"the {name} file ends early")
    return BadImage("CORRUPT", f"starts like {name}, but its header cannot be read")


def _broken(data: bytes, error: Exception) -> BadImage:
    # what pillow says of a file is a sentence; what breaks inside it is not, without the kind
    message = (str(error) if isinstance(error, OSError) and str(error) else f"{type(error).__name__}: {error}")[:200]
    cut = "truncated" in str(error).lower() or isinstance(error, EOFError) or sniff.lacks_end(data)
    return BadImage("TRUNCATED" if cut else "CORRUPT", message)
