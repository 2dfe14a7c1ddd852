"""What an encoded picture is by its header: format, mode, size, frames, orientation. Decodes no pixels."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from PIL import Image

from stages.coders import png
from stages.coders.pixels import FORMATS

_ORIENTATION_TAG = 0x0112
_SIXTEEN_BITS_PNG = 16  # the byte at 24 of a PNG file: bits of a sample


@dataclass(frozen=True)
class Glance:
    """width, height: upright. traits: codes of what decoding will have to settle, see TRAITS."""

    format: str
    mode: str
    width: int
    height: int
    traits: tuple[str, ...]


# What decoding does about each; shown by 'tfcli doctor'.
TRAITS = {
    "ALPHA": "may have transparent pixels: laid over images.policy.alpha",
    "ANIMATED": "several frames: the first is used",
    "CMYK": "press colours: converted to sRGB",
    "DEEP": "more than 8 bits a sample: scaled to 8",
    "GREY": "grey: becomes RGB with three equal channels",
    "PALETTE": "a palette of colours: becomes RGB",
    "PROFILE": "a colour profile: converted to sRGB",
    "TURNED": "EXIF says how to turn it: done",
}


def glance(data: bytes) -> Glance | None:
    """None where the header cannot be read; `decode` tells why."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of size and of broken EXIF: decoding judges both
            readable = png.openable(data) if data.startswith(png.MAGIC) else png.Readable(data)
            with Image.open(io.BytesIO(readable.data), formats=FORMATS) as image:
                if readable.profile is not None:
                    image.info["icc_profile"] = readable.profile
                return _seen(image, data)
    except Exception:  # a hostile header raises anything
        return None


def _seen(image: Image.Image, data: bytes) -> Glance:
    kind, mode = image.format or "", image.mode
    orientation = _orientation(image)
    deep = kind == "PNG" and len(data) > 24 and data[24] == _SIXTEEN_BITS_PNG
    found = {
        "ALPHA": mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info,
        "ANIMATED": kind != "MPO" and bool(getattr(image, "is_animated", False)),
        "CMYK": mode == "CMYK",
        "DEEP": deep or mode.startswith(("I", "F")),
        "GREY": mode in ("1", "L", "LA", "La"),
        "PALETTE": mode in ("P", "PA"),
        "PROFILE": bool(image.info.get("icc_profile")),
        "TURNED": orientation in range(2, 9),
    }
    # pillow turns a TIFF itself: its size is upright from the start
    width, height = image.size[::-1] if orientation in (5, 6, 7, 8) and kind != "TIFF" else image.size
    return Glance(kind, mode, width, height, tuple(name for name, there in found.items() if there))


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # the parser of a broken EXIF block raises anything; decoding notes EXIF_BROKEN
        return 1
    return value if isinstance(value, int) else 1
