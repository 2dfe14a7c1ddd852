"""Elements that are appended to documents: ids and clean images, and the inputs that the model's forward pass takes for them.

Legend: N elements of all sequences, concatenated; T elements of a sequence; M elements of a document; C, h, w of a latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.core.errors import ExitCode, TfcliError
from stages.generation.prompts import Piece, Size, TextPiece
from stages.model.transformer import ImageInputs, Inputs

if TYPE_CHECKING:
    from stages.coders.text import TextCoder


@dataclass(frozen=True)
class TokenSequence:
    """ids: any id where there is a patch. images: for each image the offset of its first patch and its clean latent (C, h, w)."""

    ids: tuple[int, ...]
    images: tuple[tuple[int, Tensor], ...] = ()


@dataclass(frozen=True)
class SequenceBuilder:
    """Turns pieces into the sequences that a model was trained on. size_ids: the id of each size of latents, which precedes BOI
    where the model was trained with size tokens; empty without them."""

    text: TextCoder
    patch_side: int
    size_ids: dict[Size, int]

    def build(self, pieces: Sequence[Piece], opened: Size | None = None) -> TokenSequence:
        """BOS, then the pieces, each image between BOI and EOI; and BOI where an image of size `opened` is generated next."""
        ids: list[int] = [self.text.bos]
        images: list[tuple[int, Tensor]] = []
        for piece in pieces:
            if isinstance(piece, TextPiece):
                ids += self.text.encode(piece.text)
            else:
                ids += self.opening((piece.latent.shape[-2], piece.latent.shape[-1]))
                images.append((len(ids), piece.latent))
                ids += [*[self.text.pad] * num_patches(piece.latent, self.patch_side), self.text.eoi]
        return TokenSequence((*ids, *self.opening(opened)) if opened else tuple(ids), tuple(images))

    def opening(self, size: Size) -> tuple[int, ...]:
        """The ids before the patches of an image: its size, where there are size tokens, and BOI. Raises TfcliError (USAGE)
        for a size without a token."""
        if not self.size_ids:
            return (self.text.boi,)
        if size not in self.size_ids:
            known = ", ".join(f"{height} x {width}" for height, width in self.size_ids)
            what = f"an image of {size[0]} x {size[1]} latent pixels has no size token"
            raise TfcliError(what, why=f"the model was trained on {known}", fix="resize it", code=ExitCode.USAGE)
        return (self.size_ids[size], self.text.boi)

    def num_elements(self, size: Size) -> int:
        """Elements of an image: its opening, its patches and EOI."""
        return len(self.opening(size)) + size[0] * size[1] // self.patch_side**2 + 1

    def finished_image(self, latent: Tensor) -> TokenSequence:
        """A generated image, clean, and EOI; its BOI is in the document already."""
        return TokenSequence((*[self.text.pad] * num_patches(latent, self.patch_side), self.text.eoi), ((0, latent),))


def num_patches(latent_Chw: Tensor, patch_side: int) -> int:
    return latent_Chw.shape[-2] * latent_Chw.shape[-1] // patch_side**2


def build_inputs(
    sequences: Sequence[TokenSequence], starts: Sequence[int], patch_side: int, device: torch.device
) -> Inputs:
    """One flat batch of the sequences, whose first elements have the positions `starts`; images at t = 0, by size."""
    ids: list[int] = []
    positions: list[int] = []
    text_index: list[int] = []
    by_size: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    for sequence, start in zip(sequences, starts, strict=True):
        first = len(ids)
        patches: set[int] = set()
        for offset, latent in sequence.images:
            by_size.setdefault(latent.shape, []).append((first + offset, latent))
            patches.update(range(offset, offset + num_patches(latent, patch_side)))
        text_index += [first + offset for offset in range(len(sequence.ids)) if offset not in patches]
        positions += range(start, start + len(sequence.ids))
        ids += sequence.ids
    index_T = torch.tensor(text_index, dtype=torch.long, device=device)
    images = tuple(
        ImageInputs(
            torch.stack([latent for _, latent in found]).to(device),
            torch.zeros(len(found), dtype=torch.long, device=device),
            torch.tensor([first for first, _ in found], device=device)[:, None]
            + torch.arange(num_patches(found[0][1], patch_side), device=device),
        )
        for found in by_size.values()
    )
    return Inputs(torch.tensor(positions, device=device), torch.tensor(ids, device=device)[index_T], index_T, images)


def build_mask(
    sequence: TokenSequence, start: int, patch_side: int, device: torch.device, *, bidirectional: bool
) -> Tensor | None:
    """The mask (T, start + T) of a sequence over the `start` elements of its document and itself; None: all is visible."""
    if len(sequence.ids) == 1:
        return None
    offset_T = torch.arange(len(sequence.ids), device=device)
    allow_TM = torch.arange(start + len(sequence.ids), device=device) <= start + offset_T[:, None]
    if bidirectional:
        for offset, latent in sequence.images:
            end = offset + num_patches(latent, patch_side)
            allow_TM[offset:end, start + offset : start + end] = True
    return allow_TM
