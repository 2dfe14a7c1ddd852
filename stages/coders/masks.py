"""A mask file -> where the picture that it belongs to may change. Nothing of what is painted is lost: white is
separated from black at the mask's own resolution, and a pixel of the fitted picture is white where it covers any white."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.coders.config import Images
from stages.coders.pixels import PixelPolicy, Pixels, crop_box, decode

Mask = np.ndarray[Any, np.dtype[np.bool_]]  # (height, width), True: may change
_HALF = 127.5
_OPAQUE = 250  # alpha: a mask that was scaled or saved as WebP has a little less than all
_NEAR = 25  # to black or white
_SAME = 4  # mean difference to a picture that was a JPEG and was decoded by another program


class UnclearMask(ValueError):
    """A mask with transparent parts of which it cannot be said what they mean. The message says why."""


@dataclass(frozen=True)
class ReadMask:
    """may_change: of the mask's own size. reading: how transparent parts were understood, for people; "" where there are none."""

    may_change: Mask
    reading: str = ""


def read_mask(data: bytes, policy: PixelPolicy, picture: Pixels) -> ReadMask:
    """Where `picture` may change, by an encoded mask. Raises BadImage as `decode` does, UnclearMask.

    Without transparency it may change where the mask is white. White strokes on a transparent layer are the same without their
    black. Where all that is left to see is black, or is the picture itself, somebody has erased a hole: that may change. All
    else is refused, because the opposite of what was meant would be drawn again.
    """
    over_black, over_white = (
        decode(data, policy.model_copy(update={"alpha": alpha})).pixels for alpha in ("black", "white")
    )
    alpha = 255 - (over_white.astype(np.int16) - over_black).mean(-1)
    white: Mask = over_black.mean(-1) > _HALF
    if alpha.min() >= _OPAQUE:
        return ReadMask(white)
    seen = alpha > _HALF
    if not seen.any():
        raise UnclearMask("it is transparent everywhere")
    colours = over_black[seen] * (255 / alpha[seen])[:, None]
    is_picture = over_black.shape == picture.shape and bool(np.abs(colours - picture[seen]).mean() <= _SAME)
    if colours.min() >= 255 - _NEAR:
        if is_picture:
            raise UnclearMask(
                "all that is to see is white in it and in the picture: strokes, or the picture with a hole"
            )
        return ReadMask(white, "white strokes on a transparent layer: what is transparent stays")
    if is_picture or colours.max() <= _NEAR:
        return ReadMask(~seen, "a transparent hole: that may change, the rest stays")
    raise UnclearMask("what shows is neither all white, nor all black, nor the picture itself")


def fit_mask(mask: Mask, images: Images) -> Mask:
    """The mask in the shape that the recipe gives its picture; what padding adds is black."""
    height, width = mask.shape
    if images.fit == "pad":
        side = max(height, width)
        square = np.zeros((side, side), bool)
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = mask
        return _any_below(square, images.size, images.size)
    shape = images.shape_of(height, width)
    left, top, right, bottom = crop_box((width, height), *shape)
    return _any_below(mask[top:bottom, left:right], *shape)


def _any_below(mask: Mask, height: int, width: int) -> Mask:
    """Whether any True lies, even in part, below each pixel of a grid laid over the mask."""
    counts = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    counts[1:, 1:] = mask.cumsum(0).cumsum(1)
    (tops, bottoms), (lefts, rights) = _borders(mask.shape[0], height), _borders(mask.shape[1], width)
    below, above = counts[bottoms], counts[tops]
    found: Mask = below[:, rights] - above[:, rights] - below[:, lefts] + above[:, lefts] > 0
    return found


def _borders(old: int, new: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The first of `old` pixels that each of `new` pixels covers, and the one behind the last."""
    number = np.arange(new)
    return number * old // new, -(-(number + 1) * old // new)
