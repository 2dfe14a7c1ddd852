"""Elements that are appended to documents: ids and clean images, and what the model's forward pass takes for them.

Legend: N elements of all lines, behind one another; T elements of a line; M places of a document; C, h, w of a latent.
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
class Line:
    """ids: with any id where patches stand. images: for each image its first element in the line and its clean latent."""

    ids: tuple[int, ...]
    images: tuple[tuple[int, Tensor], ...] = ()


@dataclass(frozen=True)
class LineMaker:
    """Lays pieces out as a model was trained on them. sizes: the id of each size of latents that stands before BOI, where the
    model was trained with size tokens."""

    text: TextCoder
    patch_side: int
    sizes: dict[Size, int]

    def line(self, pieces: Sequence[Piece], opened: Size | None = None) -> Line:
        """bos, then the pieces, each image between BOI and EOI; and BOI where an image of size `opened` is to be drawn."""
        ids: list[int] = [self.text.bos]
        images: list[tuple[int, Tensor]] = []
        for piece in pieces:
            if isinstance(piece, TextPiece):
                ids += self.text.encode(piece.text)
            else:
                ids += self.opening((piece.latent.shape[-2], piece.latent.shape[-1]))
                images.append((len(ids), piece.latent))
                ids += [*[self.text.pad] * num_patches(piece.latent, self.patch_side), self.text.eoi]
        return Line((*ids, *self.opening(opened)) if opened else tuple(ids), tuple(images))

    def opening(self, size: Size) -> tuple[int, ...]:
        """What stands before the patches of an image: BOI, behind its size where sizes are told."""
        if not self.sizes:
            return (self.text.boi,)
        if size not in self.sizes:
            known = ", ".join(f"{height} x {width}" for height, width in self.sizes)
            what = f"an image of {size[0]} x {size[1]} latent pixels has no size token"
            raise TfcliError(what, why=f"the model was trained on {known}", fix="resize it", code=ExitCode.USAGE)
        return (self.sizes[size], self.text.boi)

    def places(self, size: Size) -> int:
        """Elements of an image: its opening, its patches and EOI."""
        return len(self.opening(size)) + size[0] * size[1] // self.patch_side**2 + 1

    def finished(self, latent: Tensor) -> Line:
        """A drawn image, clean, and EOI, behind a BOI that was there before."""
        return Line((*[self.text.pad] * num_patches(latent, self.patch_side), self.text.eoi), ((0, latent),))


def num_patches(latent_Chw: Tensor, patch_side: int) -> int:
    return latent_Chw.shape[-2] * latent_Chw.shape[-1] // patch_side**2


def inputs_of(lines: Sequence[Line], starts: Sequence[int], patch_side: int, device: torch.device) -> Inputs:
    """One flat batch of the lines, whose first elements stand at the places `starts`; images at t = 0, by size."""
    ids: list[int] = []
    positions: list[int] = []
    text_places: list[int] = []
    by_size: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    for line, start in zip(lines, starts, strict=True):
        first = len(ids)
        patches: set[int] = set()
        for offset, latent in line.images:
            by_size.setdefault(latent.shape, []).append((first + offset, latent))
            patches.update(range(offset, offset + num_patches(latent, patch_side)))
        text_places += [first + number for number in range(len(line.ids)) if number not in patches]
        positions += range(start, start + len(line.ids))
        ids += line.ids
    places_T = torch.tensor(text_places, dtype=torch.long, device=device)
    images = tuple(
        ImageInputs(
            torch.stack([latent for _, latent in found]).to(device),
            torch.zeros(len(found), dtype=torch.long, device=device),
            torch.tensor([first for first, _ in found], device=device)[:, None]
            + torch.arange(num_patches(found[0][1], patch_side), device=device),
        )
        for found in by_size.values()
    )
    return Inputs(torch.tensor(positions, device=device), torch.tensor(ids, device=device)[places_T], places_T, images)


def mask_of(line: Line, start: int, patch_side: int, device: torch.device, *, bidirectional: bool) -> Tensor | None:
    """What the line's elements see of a document whose first `start` places are there: (T, start + T); None: everything."""
    if len(line.ids) == 1:
        return None
    number_T = torch.arange(len(line.ids), device=device)
    allow_TM = torch.arange(start + len(line.ids), device=device) <= start + number_T[:, None]
    if bidirectional:
        for offset, latent in line.images:
            end = offset + num_patches(latent, patch_side)
            allow_TM[offset:end, start + offset : start + end] = True
    return allow_TM
