"""The pieces of a document that each branch of guidance reads."""

from __future__ import annotations

import torch

from stages.generation.branches import branch_pieces
from stages.generation.prompts import ImagePiece, TextPiece

PICTURES = (ImagePiece(torch.zeros(1, 2, 2)), ImagePiece(torch.ones(1, 2, 2)))
PIECES = (TextPiece("a"), PICTURES[0], TextPiece("b"), PICTURES[1], TextPiece("make it blue"))


def test_branches_leave_out_text_and_then_images() -> None:
    assert branch_pieces("full", PIECES, "") == PIECES
    assert branch_pieces("images", PIECES, "") == PICTURES
    assert branch_pieces("none", PIECES, "") == ()


def test_a_negative_prompt_replaces_text_that_was_left_out() -> None:
    assert branch_pieces("full", PIECES, "blurred") == PIECES
    assert branch_pieces("images", PIECES, "blurred") == (*PICTURES, TextPiece("blurred"))
    assert branch_pieces("none", PIECES, "blurred") == (TextPiece("blurred"),)
