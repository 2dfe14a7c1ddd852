"""Held-out documents as prompts, for sampling and evaluation: documents that training never saw."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from stages.artifacts.latents import StoredDocument, StoredImage, StoredText, with_caption
from stages.generation.loading import LoadedModel
from stages.generation.prompts import ImagePiece, Piece, TextPiece


def heldout_documents(loaded: LoadedModel) -> Iterator[StoredDocument]:
    """The held-out documents with images, all of which could be encoded, in source order."""
    heldout = set(loaded.sequences.heldout_documents())
    captions = loaded.tokens.captions()
    for document in loaded.latents.documents():
        if document.index in captions:
            document = with_caption(document, captions[document.index])
        images = [segment for segment in document.segments if isinstance(segment, StoredImage)]
        if document.index in heldout and images and all(image.ok for image in images):
            yield document


def is_pair(document: StoredDocument) -> bool:
    """Whether it is one text and one image without a fixed order."""
    kinds = {type(segment) for segment in document.segments}
    return not document.fixed_order and len(document.segments) == 2 and kinds == {StoredText, StoredImage}


def pieces_of(document: StoredDocument, loaded: LoadedModel) -> tuple[Piece, ...]:
    """The document's segments as pieces; images as the normalised mean of their stored posterior."""
    pieces: list[Piece] = []
    for segment in document.segments:
        if isinstance(segment, StoredText):
            pieces.append(TextPiece(segment.text))
        else:
            stored = loaded.latents.rows(segment.grid).read(np.array([segment.row]))[0, 0]
            pieces.append(ImagePiece(loaded.scale.normalise(torch.from_numpy(stored).to(loaded.device))))
    return tuple(pieces)
