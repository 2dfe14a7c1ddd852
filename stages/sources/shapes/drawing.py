"""Scenes to pixels: flat colours on a near-white ground, edges smoothed by drawing at four times the size."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from stages.sources.shapes.world import COLOURS, GROUND, SIZES, Scene

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Coverage = np.ndarray[Any, np.dtype[np.float32]]
FOREIGN = ("hexagon",)  # drawn and known by the judge, but never in the world: it must not count as a circle
_FINE = 4  # samples along each side of a pixel


def coverage(shape: str, radius: float, x: float, y: float, size: int) -> tuple[Coverage, slice, slice]:
    """Share of each pixel that the shape covers, for the rows and columns (slices) around it. Lengths: share of the side."""
    reach = radius * size + 1
    top, left = max(0, int(y * size - reach)), max(0, int(x * size - reach))
    bottom, right = min(size, int(y * size + reach) + 1), min(size, int(x * size + reach) + 1)
    rows, columns = _fine(top, bottom) - y * size, _fine(left, right) - x * size
    inside = _inside(shape, columns[None, :] / (radius * size), rows[:, None] / (radius * size))
    blocks = inside.reshape(bottom - top, _FINE, right - left, _FINE)
    return blocks.mean((1, 3), dtype=np.float32), slice(top, bottom), slice(left, right)


def draw(scene: Scene, size: int) -> Pixels:
    """uint8 (size, size, 3)."""
    picture = np.empty((size, size, 3), dtype=np.float32)
    picture[:] = GROUND
    for thing in scene.things:
        share, rows, columns = coverage(thing.shape, SIZES[thing.size], thing.x, thing.y, size)
        colour = np.array(COLOURS[thing.colour], dtype=np.float32)
        picture[rows, columns] += share[..., None] * (colour - picture[rows, columns])
    return np.rint(picture).astype(np.uint8)


@cache
def _samples(count: int) -> Coverage:
    return ((np.arange(count * _FINE) + 0.5) / _FINE).astype(np.float32)


def _fine(start: int, stop: int) -> Coverage:
    return _samples(stop - start) + np.float32(start)


def _inside(shape: str, x: Coverage, y: Coverage) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which points are in the shape of radius 1 around the origin (y grows downwards)."""
    if shape == "circle":
        return x * x + y * y <= 1
    if shape == "square":
        return (np.abs(x) <= 0.95) & (np.abs(y) <= 0.95)
    if shape == "triangle":
        return (np.abs(x) <= (y + 1) * 0.54) & (y <= 0.82)
    if shape == "hexagon":
        return (np.abs(y) <= 0.866) & (np.abs(x) * 0.866 + np.abs(y) * 0.5 <= 0.866)
    assert shape == "cross", shape
    return ((np.abs(x) <= 0.34) & (np.abs(y) <= 1)) | ((np.abs(y) <= 0.34) & (np.abs(x) <= 1))
