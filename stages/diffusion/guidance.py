"""Classifier-free guidance (Ho and Salimans 2022): which branches of a document the model computes, and how they are combined.

A branch is the document with more or less before the image: "full", everything; "images", the images alone (Brooks et al.
2023, InstructPix2Pix); "none", nothing. A negative prompt takes the place of text that was left out. A scale of 1 means no
guidance. All of it works on estimates of x_0; for one x_t they are a linear function of those of eps, so that a weighted mean
of either is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Branch = Literal["full", "images", "none"]


@dataclass(frozen=True)
class Guidance:
    """The settings of guidance.

    text: scale against the document without its text. image: scale against the document without its images as well; None: its
    images are left out together with the text. interval: guidance is used where the first number < sigma <= the second
    (Kynkaanniemi et al. 2024). rescale: share, 0 to 1, by which the standard deviation of a guided estimate is moved back to
    that of "full" (Lin et al. 2024, eq. 15 and 16).
    """

    text: float = 1.0
    image: float | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    def weights(self, *, has_images: bool, sigma: float) -> dict[Branch, float]:
        """The weight of each branch at a noise level; they sum to 1. "full" comes first; others of weight 0 are left out.

        x = x_none + w_image (x_images - x_none) + w_text (x_full - x_images) (Brooks et al. 2023, eq. 3); for a document
        without images x_none + w_text (x_full - x_none).
        """
        low, high = self.interval
        if not low < sigma <= high:
            return {"full": 1.0}
        image = self.text if self.image is None or not has_images else self.image
        others: dict[Branch, float] = {"images": image - self.text, "none": 1 - image}
        return {"full": self.text, **{branch: weight for branch, weight in others.items() if weight != 0}}

    def branches(self, *, has_images: bool) -> tuple[Branch, ...]:
        """All branches that have a weight at some noise level."""
        return tuple(self.weights(has_images=has_images, sigma=self.interval[1]))


def combined(estimates: Sequence[Tensor], weights: Sequence[float], rescale: float = 0.0) -> Tensor:
    """The guided estimate of x_0, (I, C, h, w), from those of the branches. The first is "full". rescale: see `Guidance`; the
    standard deviation is over all values of an image."""
    full = estimates[0]
    # weights sum to 1, so this is sum(w x); with no other branch it is `full` bit for bit
    guided = full
    for estimate, weight in zip(estimates[1:], weights[1:], strict=True):
        guided = guided + weight * (estimate - full)
    if rescale == 0 or len(estimates) == 1:
        return guided
    std, full_std = (x.flatten(1).std(1).clamp(min=1e-6)[:, None, None, None] for x in (guided, full))
    return guided * (rescale * full_std / std + (1 - rescale))
