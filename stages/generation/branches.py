"""The lines that guidance compares: a document as each branch reads it."""

from __future__ import annotations

from collections.abc import Sequence

from stages.diffusion.guidance import Branch, Guidance
from stages.generation.layout import LineMaker
from stages.generation.prompts import ImagePiece, Piece, Size, TextPiece


def branches_of(guidance: Guidance) -> tuple[Branch, ...]:
    """Those of any document, "full" first."""
    return tuple(dict.fromkeys((*guidance.branches(has_images=True), *guidance.branches(has_images=False))))


def branch_pieces(branch: Branch, pieces: tuple[Piece, ...], negative: str) -> tuple[Piece, ...]:
    """What stands before an image in a branch. pieces: all that stands there in the document. The negative prompt, where
    there is one, comes behind the images, as an instruction does."""
    if branch == "full":
        return pieces
    images = tuple(piece for piece in pieces if isinstance(piece, ImagePiece)) if branch == "images" else ()
    return (*images, TextPiece(negative)) if negative else images


def longest(
    length: int, branches: Sequence[Branch], pieces: tuple[Piece, ...], negative: str, size: Size, maker: LineMaker
) -> int:
    """Elements of the longest branch of a document with an image of `size` behind it, up to its EOI. length: of the document
    itself so far; pieces: all that stands there."""
    others = (maker.line(branch_pieces(branch, pieces, negative)) for branch in branches if branch != "full")
    return max([length, *(len(line.ids) for line in others)]) + maker.places(size)
