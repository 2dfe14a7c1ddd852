"""Laws of guidance: which branches are computed, and what their weighted sum is."""

from __future__ import annotations

import pytest
import torch

from stages.diffusion.guidance import Guidance, combined

ESTIMATES = torch.randn(3, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
FULL, IMAGES, NONE = ESTIMATES


def made(guidance: Guidance, *, has_images: bool = False, sigma: float = 0.5) -> torch.Tensor:
    weights = guidance.weights(has_images=has_images, sigma=sigma)
    of = {"full": FULL, "images": IMAGES, "none": NONE}
    return combined([of[branch] for branch in weights], list(weights.values()), guidance.rescale)


def test_a_scale_of_one_needs_one_branch_and_zero_gives_the_other() -> None:
    assert Guidance(1.0).weights(has_images=False, sigma=0.5) == {"full": 1}
    assert torch.equal(made(Guidance(1.0)), FULL)
    assert torch.allclose(made(Guidance(0.0)), NONE)
    assert torch.allclose(made(Guidance(3.0)) - NONE, 3 * (FULL - NONE))


@pytest.mark.parametrize("text", [1.0, 2.5, 7.0])
@pytest.mark.parametrize("image", [1.0, 1.5, 2.5])
def test_two_scales_are_those_of_instruct_pix2pix(text: float, image: float) -> None:
    guidance = Guidance(text, image)
    expected = NONE + image * (IMAGES - NONE) + text * (FULL - IMAGES)
    assert torch.allclose(made(guidance, has_images=True), expected)
    branches = guidance.branches(has_images=True)
    assert ("images" in branches) == (text != image)
    assert ("none" in branches) == (image != 1)
    assert sum(guidance.weights(has_images=True, sigma=0.5).values()) == pytest.approx(1)


def test_without_images_or_their_own_scale_there_is_one_comparison() -> None:
    for guidance, has_images in ((Guidance(3.0, 1.5), False), (Guidance(3.0), True)):
        assert guidance.branches(has_images=has_images) == ("full", "none")
        assert torch.allclose(made(guidance, has_images=has_images), NONE + 3 * (FULL - NONE))


def test_outside_of_the_interval_nothing_is_guided() -> None:
    guidance = Guidance(3.0, interval=(0.2, 0.8))
    guided = [
        sigma
        for sigma in (0.1, 0.2, 0.21, 0.8, 0.81, 1.0)
        if guidance.weights(has_images=False, sigma=sigma) != {"full": 1}
    ]
    assert guided == [0.21, 0.8]
    assert guidance.branches(has_images=False) == ("full", "none")
    assert torch.equal(made(guidance, sigma=0.9), FULL)
    assert len(Guidance(3.0).weights(has_images=False, sigma=1.0)) == 2


def test_rescale_restores_the_standard_deviation_of_each_image() -> None:
    plain = made(Guidance(6.0))
    full_rescale, half = made(Guidance(6.0, rescale=1.0)), made(Guidance(6.0, rescale=0.5))
    assert torch.allclose(full_rescale.flatten(1).std(1), FULL.flatten(1).std(1))
    assert (plain.flatten(1).std(1) > 2 * FULL.flatten(1).std(1)).all()
    assert torch.allclose(half, (plain + full_rescale) / 2)
    for image in range(2):  # each by itself, along the guided estimate
        cosine = torch.cosine_similarity(full_rescale[image].flatten(), plain[image].flatten(), dim=0)
        assert cosine.item() == pytest.approx(1)
    assert torch.equal(made(Guidance(1.0, rescale=1.0)), FULL)
