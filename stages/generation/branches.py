"""The sequences that guidance compares: what the model reads of a document in each branch."""

from __future__ import annotations

from collections.abc import Sequence

from stages.diffusion.guidance import Branch, Guidance
from stages.generation.layout import SequenceBuilder
from stages.generation.prompts import ImagePiece, Piece, Size, TextPiece


def branches_of(guidance: Guidance) -> tuple[Branch, ...]:
    """The branches that any document may need, "full" first."""
    return tuple(dict.fromkeys((*guidance.branches(has_images=True), *guidance.branches(has_images=False))))


def branch_pieces(branch: Branch, pieces: tuple[Piece, ...], negative: str) -> tuple[Piece, ...]:
    """The pieces before an image in a branch. pieces: all of the document before it. The negative prompt, where there is one,
    follows the images, as an instruction does."""
    if branch == "full":
        return pieces
    images = tuple(piece for piece in pieces if isinstance(piece, ImagePiece)) if branch == "images" else ()
    return (*images, TextPiece(negative)) if negative else images


def longest_branch(
    length: int,
    branches: Sequence[Branch],
    pieces: tuple[Piece, ...],
    negative: str,
    size: Size,
    builder: SequenceBuilder,
) -> int:
    """Elements of the longest branch of a document up to the EOI of its next image.

    Args:
        length: elements of the document itself so far.
        branches: those that guidance compares.
        pieces: all pieces of the document so far.
        negative: the negative prompt, "" for none.
        size: (h, w) in latent pixels of the next image.
        builder: how pieces become elements.
    """
    others = (builder.build(branch_pieces(branch, pieces, negative)) for branch in branches if branch != "full")
    return max([length, *(len(sequence.ids) for sequence in others)]) + builder.num_elements(size)
