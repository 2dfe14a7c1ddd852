"""The lines that guidance compares: a document as each branch reads it."""

from __future__ import annotations

from stages.diffusion.guidance import Branch
from stages.generation.prompts import ImagePiece, Piece, TextPiece


def branch_pieces(branch: Branch, pieces: tuple[Piece, ...], negative: str) -> tuple[Piece, ...]:
    """What stands before an image in a branch. pieces: all that stands there in the document. The negative prompt, where
    there is one, comes behind the images, as an instruction does."""
    if branch == "full":
        return pieces
    images = tuple(piece for piece in pieces if isinstance(piece, ImagePiece)) if branch == "images" else ()
    return (*images, TextPiece(negative)) if negative else images
