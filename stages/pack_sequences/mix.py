"""How often a pass lays each document out: weights by source, and the ratio of text to image elements."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.artifacts.tables import BoolArray, IntArray
from stages.core.errors import ExitCode, TfcliError
from stages.pack_sequences.config import PackConfig

Floats = np.ndarray[Any, np.dtype[np.float64]]


def document_weights(pack: PackConfig, sources: IntArray, names: list[str], *, late: bool = False) -> Floats:
    """The weight of each document's source, most of the time or at the end of training. Raises TfcliError (USAGE) for a source
    that is not there."""
    for key, given in (("weights", pack.weights), ("late_weights", pack.late_weights)):
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise TfcliError(
                f"pack.{key}: no source {unknown[0]}", fix=f"the sources are {', '.join(names)}", code=ExitCode.USAGE
            )
    weights = pack.weights | (pack.late_weights if late else {})
    return np.array([weights.get(name, 1.0) for name in names])[sources]


def balanced(weights: Floats, has_images: BoolArray, text: IntArray, patches: IntArray, wanted: float) -> Floats:
    """Weights with those of text documents, or of documents with images, lowered so that the elements of both kinds are
    `wanted` text for each patch. text, patches: elements of each document in one pass.

    Raises TfcliError (INPUT) where no mixture has that ratio.
    """
    alone = float((weights * text)[~has_images].sum())  # text in documents of text
    with_images = float((weights * text)[has_images].sum())  # text in documents with images, special tokens included
    image = float((weights * patches).sum())
    needed = wanted * image - with_images  # what text documents have to bring
    if image == 0 or alone == 0 or needed <= 0:
        found = "no patch" if image == 0 else f"{(alone + with_images) / image:.3g} text elements for a patch"
        why = f"the documents have {found}" + (
            "" if image == 0 or (alone > 0 and needed > 0) else f", those with images alone {with_images / image:.3g}"
        )
        raise TfcliError(
            f"pack.text_to_image {wanted:g} cannot be reached",
            why=why,
            fix="add documents of the kind that is missing, or leave the key out",
            code=ExitCode.INPUT,
        )
    share = needed / alone
    return np.where(has_images, weights / max(1.0, share), weights * min(1.0, share))


def copies(weights: Floats, draws: Floats) -> IntArray:
    """How often each document is laid out in this pass: the whole part of its weight, and once more by its draw in [0, 1)."""
    whole = np.floor(weights)
    times: IntArray = (whole + (draws < weights - whole)).astype(np.int64)
    return times
