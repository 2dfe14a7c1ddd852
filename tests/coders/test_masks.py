"""Masks: whatever is painted white reaches the picture that the model sees, and nothing else does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.coders.config import Images
from stages.coders.masks import UnclearMask, fit_mask, read_mask
from stages.coders.pixels import PixelPolicy, Pixels, crop_box
from stages.diffusion.inpainting import cells_to_change
from stages.sources.decoding import fit
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


def layer(colours: object, alpha: np.ndarray[Any, Any]) -> bytes:
    """A picture of these colours with this alpha, as a PNG."""
    painted = np.zeros((32, 32, 4), np.uint8)
    painted[..., :3] = colours
    painted[..., 3] = alpha
    return png(Image.fromarray(painted))


def photo(low: int = 0, high: int = 256) -> Pixels:
    return np.random.default_rng(0).integers(low, high, (32, 32, 3)).astype(np.uint8)


CORNER = np.zeros((32, 32), bool)
CORNER[:8, :8] = True


@pytest.mark.parametrize("alpha", ["white", "black", "skip"])
def test_white_strokes_on_a_transparent_layer_may_change(alpha: str) -> None:
    data = layer(255, CORNER * 255)  # white also below full transparency
    found = read_mask(data, PixelPolicy.model_validate({"alpha": alpha}), photo())
    assert np.array_equal(found.may_change, CORNER)
    assert "strokes" in found.reading


@pytest.mark.parametrize("rest", [0, photo(), photo(0, 40), np.clip(photo(2, 250) + np.uint8(2), 0, 255)])
def test_a_hole_that_was_erased_may_change(rest: object) -> None:
    """From black, from the picture, from it after a JPEG decoder that differs a little."""
    picture = photo() if isinstance(rest, int) else np.asarray(rest)
    found = read_mask(layer(rest, ~CORNER * 255), POLICY, picture)
    assert np.array_equal(found.may_change, CORNER)
    assert "hole" in found.reading


@pytest.mark.parametrize(
    ("colours", "alpha", "picture"),
    [
        (photo(), ~CORNER * 255, photo()[::-1]),  # a hole in another picture
        ((255, 0, 0), CORNER * 255, photo()),  # red strokes
        (255, ~CORNER * 255, np.full((32, 32, 3), 255, np.uint8)),  # a white page with a hole, or strokes
        (np.where(CORNER, 255, 0)[..., None], np.where(np.arange(32) < 16, 255, 0), photo()),  # all three
        (0, CORNER * 0, photo()),  # nothing at all
    ],
)
def test_what_may_mean_both_is_refused(colours: object, alpha: np.ndarray[Any, Any], picture: Pixels) -> None:
    with pytest.raises(UnclearMask):
        read_mask(layer(colours, alpha), POLICY, picture)


def test_a_mask_without_transparency_is_read_by_its_brightness() -> None:
    for alpha in (255, 252):
        found = read_mask(layer(np.where(CORNER, 255, 0)[..., None], np.full((32, 32), alpha)), POLICY, photo())
        assert np.array_equal(found.may_change, CORNER)
        assert found.reading == ""
