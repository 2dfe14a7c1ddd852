"""The recipe section [images]: how every picture becomes pixels of a known size. Said once; `vae` and `encode` obey it."""

from __future__ import annotations

from math import log
from typing import Literal

from pydantic import Field, model_validator

from stages.coders.pixels import PixelPolicy
from stages.core.config import Section

Shape = tuple[int, int]  # height and width in pixels
MAX_SHAPES = 256  # latents keep the number of each picture's shape in a byte


class Images(Section):
    """How every picture becomes pixels of a known size, for the autoencoder and for encoding alike."""

    size: int = Field(64, ge=8, le=4096)
    """Side in pixels of the square that pictures are fitted to (paper, section 4.1: 256). With buckets: the side of the square
    whose area the other shapes have at most. A multiple of the autoencoder's factor times pack.patch_side."""
    fit: Literal["crop", "pad", "buckets"] = "crop"
    """How a picture that is not square is fitted: the middle square ("crop", paper, section 4.1), all of it on white ("pad"), or
    the shape of nearest aspect among several ("buckets"), with the rest cropped."""
    bucket_step: int = Field(0, ge=0)
    """Sides of buckets are multiples of this many pixels; the autoencoder's factor times pack.patch_side must divide it. 0: an
    eighth of size."""
    bucket_aspect: float = Field(2.0, ge=1, le=8)
    """The most elongated bucket, as longer side to shorter side."""
    policy: PixelPolicy = PixelPolicy()
    """What counts as a usable picture; the others are left out with a reason."""

    @model_validator(mode="after")
    def _check(self) -> Images:
        if self.fit != "buckets" and (self.bucket_step or self.bucket_aspect != 2.0):
            raise ValueError('bucket_step and bucket_aspect need fit = "buckets"')
        if self.size % self.step:
            raise ValueError(f"size {self.size} is no multiple of bucket_step {self.step}")
        if (count := len(self.shapes())) > MAX_SHAPES:
            raise ValueError(
                f"{count} shapes of buckets, at most {MAX_SHAPES}: raise bucket_step or lower bucket_aspect"
            )
        return self

    @property
    def step(self) -> int:
        return self.bucket_step or (self.size // 8 if self.fit == "buckets" else self.size)

    def shapes(self) -> tuple[Shape, ...]:
        """The square first, then the buckets by aspect, wide ones before tall ones: for each height the largest width within
        the square's area."""
        found = {(self.size, self.size)}
        if self.fit == "buckets":
            for short in range(self.step, self.size, self.step):
                long = self.size**2 // short // self.step * self.step
                if long <= short * self.bucket_aspect:
                    found |= {(short, long), (long, short)}
        return tuple(sorted(found, key=lambda shape: (max(shape) / min(shape), shape)))

    def squares(self) -> Images:
        """The same with all pictures cropped to the square: what an autoencoder for buckets is trained and measured on."""
        if self.fit != "buckets":
            return self
        return self.model_copy(update={"fit": "crop", "bucket_step": 0, "bucket_aspect": 2.0})

    def shape_of(self, height: int, width: int) -> Shape:
        """The shape whose aspect is nearest (by ratio) to that of a picture."""
        if self.fit != "buckets":
            return self.size, self.size
        return min(self.shapes(), key=lambda shape: abs(log(shape[0] * width / (shape[1] * height))))
