"""model.rope_base = "auto": the base of the rotary angles by the lengths of the documents that are trained on.

A head of size d turns its pairs by angles base^(-2i/d) for each element. The slowest of them makes a turn in nearly 2 pi base
elements: in about 6 documents, where the base is their length. Every angle then tells near from far within a document. With the
paper's 10,000 and documents of 30 elements most angles of a head hardly move.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from stages.artifacts.checkpoint import Checkpoint
from stages.artifacts.sequences import Sequences
from stages.artifacts.tables import DocumentTable, IntArray
from stages.core.events import Note, Report
from stages.model.config import ModelConfig

CHOICES = (100.0, 300.0, 1_000.0, 3_000.0, 10_000.0)
_USUAL = 0.99  # share of the documents that are no longer than the usual longest one


def with_rope_base(model: ModelConfig, start_from: str, sequences: Path, report: Report) -> ModelConfig:
    """The section with a number, and a note of where it comes from where it was "auto". The same sequences give the same number,
    so that a training that resumes has it too.

    Args:
        model: the recipe section.
        start_from: the checkpoint that is fine-tuned, whose weights know the angles of its own base; empty for none.
        sequences: folder of the Sequences.
        report: takes the note.
    """
    if model.rope_base != "auto":
        return model
    if start_from:
        content = Checkpoint.open(Path(os.path.expanduser(start_from))).content
        base, why = ModelConfig.model_validate(content.model).rope_base, f"as in {start_from}"
        assert base != "auto", "a checkpoint holds the number"
    else:
        usual = usual_length(DocumentTable(Sequences.open(sequences).split("train").documents).length)
        base, why = rope_base_for(usual), f"99 % of the documents have at most {usual:,} elements"
    report(Note(f"rope_base {base:,g}: {why}"))
    return model.model_copy(update={"rope_base": base})


def usual_length(lengths: IntArray) -> int:
    """The length that 99 of 100 documents do not exceed."""
    return int(np.quantile(lengths, _USUAL, method="inverted_cdf"))


def rope_base_for(length: int) -> float:
    """The smallest choice that is at least `length`, the largest where none is."""
    return next((choice for choice in CHOICES if choice >= length), CHOICES[-1])
