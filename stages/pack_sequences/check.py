"""What every packed row must fulfil, tried on all of them: a row that breaks a rule never gets to training."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.artifacts.sequences import RowTable
from stages.artifacts.tokens import Marks
from stages.core.errors import ExitCode, TfcliError
from stages.pack_sequences.layout import Frames

IntArray = np.ndarray[Any, np.dtype[np.int64]]


def check_rows(table: RowTable, marks: Marks, frames: Frames, num_images: int) -> None:
    """Documents lie in their row and do not overlap; images lie in their document, closed by BOI and EOI, behind their size where
    sizes are told, with as many patches as their grid has and a row of latents that is there; ids are in range. Raises
    TfcliError (BUG): it is never the input.

    num_images: rows of the latents.
    """
    vocab_size = marks.vocab_size + (0 if frames.sizes is None else len(np.unique(frames.sizes)))
    ids, documents, images = table.ids, table.documents, table.images
    _require(ids.size == 0 or (ids.min() >= 0 and ids.max() < vocab_size), "an id is out of range")
    ends = documents[:, 1] + documents[:, 2]
    _require(((documents[:, 1] >= 0) & (ends <= ids.shape[1])).all(), "a document crosses the end of its row")
    behind = documents[1:, 0] == documents[:-1, 0]
    _require((documents[1:, 1] >= ends[:-1])[behind].all(), "documents overlap")
    _require((images[:, 2] == frames.patches[images[:, 4]]).all(), "an image has not the patches of its grid")
    _require(((images[:, 3] >= 0) & (images[:, 3] < num_images)).all(), "an image has no row of latents")
    owner = documents[images[:, 5]]
    first, last = images[:, 1], images[:, 1] + images[:, 2]
    _require((images[:, 0] == owner[:, 0]).all(), "an image lies in another row than its document")
    inside = (first >= owner[:, 1] + frames.before) & (last < owner[:, 1] + owner[:, 2])
    _require(inside.all(), "an image lies outside its document")
    _require((ids[images[:, 0], first - 1] == marks.boi).all(), "an image without BOI")
    _require((ids[images[:, 0], last] == marks.eoi).all(), "an image without EOI")
    if frames.sizes is not None:
        told = ids[images[:, 0], first - 2] == frames.sizes[images[:, 4]]
        _require(told.all(), "an image without its size")
        _require(int(np.isin(ids, frames.sizes).sum()) == len(images), "a size without an image")
    same = images[1:, 0] == images[:-1, 0]
    _require((first[1:] > last[:-1])[same].all(), "images overlap")
    _require(int((ids == marks.boi).sum()) == len(images), "BOI without an image")
    _require(int((ids == marks.eoi).sum()) == len(images), "EOI without an image")


def _require(fulfilled: bool | np.bool_, what: str) -> None:
    """Not an assert: `python -O` must not switch it off."""
    if not fulfilled:
        raise TfcliError(f"packing made a row in which {what}", why="a bug in tfcli", code=ExitCode.BUG)
