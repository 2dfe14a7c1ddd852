"""The recipe section [pack]: documents to rows of a fixed length."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stages.core.config import Section

VERSION = 5  # of the stage; raised where the same settings give other bytes


class PackConfig(Section):
    """How documents are put into rows of a fixed length."""

    row_length: Annotated[int, Field(ge=16)] | Literal["auto"] = 4096
    """Elements (tokens, special tokens and patches) in a row (paper, section 4.1: 4096). It is also the longest document that
    the model can generate. "auto": the smallest of 256, 512, 1,024, 2,048 and 4,096 that holds all documents but 1 in 200 and
    whose rows are 75 % full; the fullest that holds them where none is as full; 4,096 where none holds them. Texts that
    too_long_text splits do not count where there are images."""
    patch_side: int = Field(2, ge=1)
    """Latent pixels along a side of a patch (paper: 2, table 6: 1, 2, 4 and 8). A larger one gives fewer elements for an image.
    It must divide height and width of the latents."""
    caption_first: float = Field(0.8, ge=0, le=1)
    """Share of caption pairs in which the text comes before the image (paper, section 4.1: 0.8); drawn for each pair in each
    pass. Documents with an order of their own keep it."""
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of the caption-first pairs whose text is left out, so that the model also learns to draw without text, which
    guidance needs. The paper does not say; 0.1 is usual. The held-out side keeps all text."""
    passes: int = Field(1, ge=1)
    """How often every document is packed, each time with its own order, dropped texts and place."""
    heldout_fraction: float = Field(0.02, ge=0, lt=1)
    """Share of the groups of documents that is kept out of training to measure the losses, in addition to what the source holds
    out itself. Above 0 it is at least one group, if there are two. 0: only what the source holds out."""
    weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] = Field(default_factory=dict)
    """How often a pass takes the documents of a source, by the name of the source: 2.5 is twice, and a third time for a random
    half. 0 leaves a source out of training. Sources that are not named have 1."""
    late_weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] = Field(default_factory=dict)
    """Other weights for the last train.late_share of the steps, by the name of the source (the paper's large run: images
    of high aesthetic quality count more in the last 1 %). Sources that are not named keep theirs. Empty: no change."""
    late_passes: int = Field(1, ge=1)
    """Passes that are packed with late_weights."""
    text_to_image: float | None = Field(None, gt=0)
    """Text elements (special tokens included) for each patch in the training rows (paper, section 4.1: 1). Each pass takes a
    random part of the documents of text, or of those with images, whichever are too many. Not set: as the documents come."""
    size_tokens: bool = False
    """Put a token for the image's size before each BOI, so that the model chooses the size of what it draws. Adds one id to the
    vocabulary for each size of latents."""
    too_long_text: Literal["split", "skip"] = "split"
    """What becomes of a text that is longer than a row: split into several rows, or left out."""
    too_long_documents: Literal["skip", "truncate"] = "skip"
    """What becomes of a document with images that is longer than a row: left out, or ended where the row ends. An image is never
    cut; of a caption pair the caption is shortened."""

    @property
    def known_row_length(self) -> int:
        """The row length as a number."""
        assert self.row_length != "auto", "packing derives it first"
        return self.row_length
