"""Classifier-free guidance (Ho and Salimans 2022): which branches of a document are asked, and what of them is made.

A branch is the document as the model could have read it: "full", with all that stands before the image; "images", with the
images alone (Brooks et al. 2023, InstructPix2Pix); "none", with nothing. A negative prompt stands where text was left out.
A scale of 1 means no guidance. Everything is said of estimates of x_0; for one x_t they and those of the noise are lines in
each other, so that a weighted mean of either is the same.
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
    """text: how far away from the document without its text. image: how far away from that without its images too; None: its
    images are left out together with the text. interval: noise levels b (see `schedules.py`) above the first and up to the
    second, at which the model is guided (Kynkaanniemi et al. 2024). rescale: share, 0 to 1, by which the deviation of a
    guided estimate is brought back to that of "full" (Lin et al. 2024, eq. 15 and 16)."""

    text: float = 1.0
    image: float | None = None
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    def weights(self, *, has_images: bool, level: float) -> dict[Branch, float]:
        """What each branch counts at noise level b; they sum to 1. "full" comes first; others that count nothing are left out.

        x = x_none + w_image (x_images - x_none) + w_text (x_full - x_images) (Brooks et al. 2023, eq. 3); of a document
        without images x_none + w_text (x_full - x_none).
        """
        low, high = self.interval
        if not low < level <= high:
            return {"full": 1.0}
        image = self.text if self.image is None or not has_images else self.image
        others: dict[Branch, float] = {"images": image - self.text, "none": 1 - image}
        return {"full": self.text, **{branch: weight for branch, weight in others.items() if weight != 0}}

    def branches(self, *, has_images: bool) -> tuple[Branch, ...]:
        """Those that some noise level asks for."""
        return tuple(self.weights(has_images=has_images, level=self.interval[1]))


def combined(estimates: Sequence[Tensor], weights: Sequence[float], rescale: float = 0.0) -> Tensor:
    """The guided estimate of x_0, (I, C, h, w), from those of the branches. The first is "full"; rescale: as of `Guidance`,
    by the deviation over all values of each image."""
    full = estimates[0]
    # weights sum to 1, so this is sum(w x); with no other branch it is `full` bit for bit
    guided = full
    for estimate, weight in zip(estimates[1:], weights[1:], strict=True):
        guided = guided + weight * (estimate - full)
    if rescale == 0 or len(estimates) == 1:
        return guided
    own, wanted = (x.flatten(1).std(1).clamp(min=1e-6)[:, None, None, None] for x in (guided, full))
    return guided * (rescale * wanted / own + (1 - rescale))
