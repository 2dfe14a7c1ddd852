"""A mask file -> where the picture that it belongs to may change. Nothing of what is painted is lost: the mask is told white
from black at its own resolution, and a pixel of the fitted picture is white where any white lies below it."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.coders.config import Images
from stages.coders.pixels import PixelPolicy, crop_box, decode

Mask = np.ndarray[Any, np.dtype[np.bool_]]  # (height, width), True: may change


def read_mask(data: bytes, policy: PixelPolicy) -> Mask:
    """Where an encoded picture is white, of its own size; transparent pixels are black. Raises BadImage as `decode` does."""
    pixels = decode(data, policy.model_copy(update={"alpha": "black"})).pixels
    white: Mask = pixels.mean(-1) > 127.5
    return white


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
