"""The recipe section [pack]: documents to rows of a fixed length."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stages.core.config import Section


class PackConfig(Section):
    """row_length: elements in a row (paper: 4096). patch_side: latent pixels along a patch (paper: 2).

    caption_first: share of pairs written text before image (paper: 0.8); documents of fixed order keep theirs.
    condition_dropout: share of caption-first pairs whose text before the image is dropped, for guidance (paper: open).
    passes: times that every document is laid out, each with draws of its own.
    heldout_fraction: share of groups kept out of training, beside what the source itself holds out.
    too_long: what happens to a document longer than a row; `split` cuts documents of text only.
    """

    row_length: int = Field(4096, ge=16)
    patch_side: int = Field(2, ge=1)
    caption_first: float = Field(0.8, ge=0, le=1)
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    passes: int = Field(1, ge=1)
    heldout_fraction: float = Field(0.02, ge=0, lt=1)
    too_long: Literal["skip", "split"] = "split"
