"""Masks: whatever is painted white reaches the picture that the model sees, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.coders.config import Images
from stages.coders.masks import fit_mask, read_mask
from stages.coders.pictures import fit
from stages.coders.pixels import PixelPolicy, crop_box
from stages.diffusion.editing import cells_to_change
from tests.bad_inputs.lab import png

POLICY = PixelPolicy()


@pytest.mark.parametrize("stroke", [1, 4, 8, 12, 20])
def test_thin_strokes_and_small_spots_are_not_lost(stroke: int) -> None:
    mask = np.zeros((512, 512), bool)
    mask[100:400, 250 : 250 + stroke] = True
    mask[500, 3] = True
    fitted = fit_mask(mask, Images(size=64))
    assert np.array_equal(fitted, mask.reshape(64, 8, 64, 8).any((1, 3)))
    assert np.array_equal(cells_to_change(fitted, 8), mask.reshape(8, 64, 8, 64).any((1, 3)))


@settings(deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.sampled_from(["crop", "pad", "buckets"]), st.integers(0, 999))
def test_a_pixel_is_white_exactly_where_white_lies_below_it(height: int, width: int, way: str, seed: int) -> None:
    """By brute force, of the mask in blocks of so many pixels that all borders fall between them."""
    images = Images.model_validate({"size": 16, "fit": way, **({"bucket_step": 4} if way == "buckets" else {})})
    mask = np.random.default_rng(seed).random((height, width)) < 0.03
    found = fit_mask(mask, images)
    new_height, new_width = found.shape
    if way == "pad":
        side = max(height, width)
        above, before = (side - height) // 2, (side - width) // 2
        seen = np.pad(mask, ((above, side - height - above), (before, side - width - before)))
    else:
        left, top, right, bottom = crop_box((width, height), new_height, new_width)
        seen = mask[top:bottom, left:right]
    fine = seen.repeat(new_height, 0).repeat(new_width, 1)
    blocks = fine.reshape(new_height, seen.shape[0], new_width, seen.shape[1])
    assert np.array_equal(found, blocks.any((1, 3)))


@pytest.mark.parametrize("way", ["crop", "pad", "buckets"])
@pytest.mark.parametrize("size", [(40, 24), (24, 40), (33, 33)])
def test_a_mask_is_cropped_and_padded_as_its_picture_is(way: str, size: tuple[int, int]) -> None:
    images = Images.model_validate({"size": 16, "fit": way, **({"bucket_step": 4} if way == "buckets" else {})})
    mask = np.zeros(size, bool)
    mask[size[0] // 2 :, size[1] // 3 :] = True
    picture = Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).convert("RGB")
    bright = fit(picture, images).mean(-1) > 127.5
    if way == "pad":
        bright &= fit(Image.new("RGB", picture.size), images).mean(-1) < 127.5  # without what padding adds
    found = fit_mask(mask, images)
    assert (found >= bright).all()
    assert (found & ~bright).sum() <= sum(found.shape) + 1  # a line of pixels that are white in part


def test_padding_is_black_and_does_not_move_what_is_white() -> None:
    mask = np.zeros((20, 40), bool)
    assert not fit_mask(mask, Images(size=16, fit="pad")).any()
    mask[0, 0] = True
    assert np.argwhere(fit_mask(mask, Images(size=16, fit="pad"))).tolist() == [[4, 0]]
    rows = fit_mask(~mask, Images(size=40, fit="pad")).any(1)
    assert np.flatnonzero(rows).tolist() == list(range(10, 30))


def test_transparent_pixels_are_black_whatever_lies_behind_pictures() -> None:
    painted = np.zeros((32, 32, 4), np.uint8)
    painted[:8, :8] = 255
    painted[8:, 8:, :3] = 255  # white below full transparency
    for alpha in ("white", "skip"):
        white = read_mask(png(Image.fromarray(painted)), PixelPolicy(alpha=alpha))
        assert white.sum() == 64
        assert white[:8, :8].all()
