"""The recipe section [pack]: documents to rows of a fixed length."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stages.core.config import Section


class PackConfig(Section):
    """row_length: elements in a row (paper: 4096). patch_side: latent pixels along a patch (paper: 2).

    caption_first: share of pairs written text before image (paper: 0.8); documents of fixed order keep theirs.
    condition_dropout: share of caption-first pairs whose text before the image is dropped, for guidance (paper: open).
    passes: times that every document is laid out, each with draws of its own.
    heldout_fraction: share of groups kept out of training, in addition to what the source itself holds out.
    weights: how often a pass lays out the documents of a source, by its name (1 where it is not named): 2.5 is twice, and a
    third time for half of them, others in each pass. 0 leaves a source out of training.
    late_weights: other weights for the end of training (train.late_share of its steps; paper: high-aesthetic images in the last
    1 %), by source; those that are not named keep theirs. late_passes: passes that are laid out with them. Empty: no change.
    text_to_image: elements of text and marks for each patch (paper: 1). Of the side that has too much (documents of text, or
    documents with images) each pass takes a part, another one each time. Empty: as the documents come.
    size_tokens: before each BOI stands an id for the size of the image, so that the model chooses the size of what it draws. The
    ids come behind the vocabulary of the tokenizer, one for each size of latents.
    too_long_text: a text longer than a row is cut into pieces, or left out. too_long_documents: one with images is left out,
    or ends where the row does: no image is cut, a text may be; of a caption pair the caption is cut.
    """

    row_length: int = Field(4096, ge=16)
    patch_side: int = Field(2, ge=1)
    caption_first: float = Field(0.8, ge=0, le=1)
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    passes: int = Field(1, ge=1)
    heldout_fraction: float = Field(0.02, ge=0, lt=1)
    weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] = Field(default_factory=dict)
    late_weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] = Field(default_factory=dict)
    late_passes: int = Field(1, ge=1)
    text_to_image: float | None = Field(None, gt=0)
    size_tokens: bool = False
    too_long_text: Literal["split", "skip"] = "split"
    too_long_documents: Literal["skip", "truncate"] = "skip"
