"""A document while it grows, and its runs of text, which are told as soon as they are certain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stages.diffusion.guidance import Branch
from stages.generation.branches import branch_pieces
from stages.generation.layout import Line, LineMaker
from stages.generation.prompts import Edit, ImagePiece, Prompt, Size

if TYPE_CHECKING:
    from torch import Tensor

    from stages.coders.text import TextCoder


class TextRun:
    """The ids of a run of text. What is told of it, joined, is its text, up to a stop string.

    Held back are bytes that make no character yet, and ends that could become a stop string.
    """

    def __init__(self, text: TextCoder, stop: tuple[str, ...] = ()) -> None:
        self.text, self.stop = text, stop
        self.ids: list[int] = []
        self.stopped = False
        self._held = ""
        self._start = self._read = 0  # of ids: a piece's text depends on the one before it, so that one is read again

    def add(self, token: int) -> str:
        """One more id; returns what can be told now."""
        self.ids.append(token)
        return self._tell(last=False)

    def close(self) -> str:
        """What was held back; the next id begins a new run."""
        told = "" if self.stopped else self._tell(last=True)
        self.ids, self._held, self._start, self._read = [], "", 0, 0
        return told

    def _tell(self, *, last: bool) -> str:
        before = self.text.decode(self.ids[self._start : self._read])
        now = self.text.decode(self.ids[self._start :])
        if last or not now.endswith("\ufffd"):
            self._held += now[len(before) :]
            self._start, self._read = self._read, len(self.ids)
        found = [place for stop in self.stop if (place := self._held.find(stop)) >= 0]
        self.stopped = bool(found)
        keep = min(found) if found else len(self._held) - (0 if last else self._unsure())
        told, self._held = self._held[:keep], self._held[keep:]
        return told

    def _unsure(self) -> int:
        """Characters at the end that begin a stop string."""
        lengths = (size for stop in self.stop for size in range(1, len(stop)) if self._held.endswith(stop[:size]))
        return max(lengths, default=0)


@dataclass
class Document:
    """slots: its places in the cache, by branch of guidance ("full" is the document itself). next_id: the element to feed
    next, None while it waits for its image (whose BOI is in the cache) or after it has ended. seen: the ids of its text.
    size: of its next image, None until it is chosen. fixed: of all that it draws, None where the model chooses. read: what its
    other branches hold.
    """

    index: int
    slots: dict[Branch, int]
    prompt: Prompt
    run: TextRun
    next_id: int | None = None
    images: int = 0
    ended: bool = False
    seen: list[int] = field(default_factory=list)
    size: Size | None = None
    fixed: Size | None = None
    read: dict[Branch, tuple[int, Size]] = field(default_factory=dict)
    latents: list[Tensor] = field(default_factory=list)  # what it drew

    @property
    def edit(self) -> Edit | None:
        """What its next image begins from."""
        return None if self.images else self.prompt.edit

    @property
    def wanted(self) -> Size | None:
        """The size of its next image, None where the model chooses."""
        if self.edit is None:
            return self.fixed
        height, width = self.edit.latent.shape[1:]
        return height, width

    @property
    def has_images(self) -> bool:
        """Whether an image stands before the one that comes next."""
        return bool(self.latents) or any(isinstance(piece, ImagePiece) for piece in self.prompt.pieces)

    def unread(self, branches: Sequence[Branch], maker: LineMaker) -> Iterator[tuple[int, Line]]:
        """Slots and lines of the branches, beside the document itself, that do not hold what they should before the next
        image: its BOI, and the images before it."""
        assert self.size is not None
        drawn = tuple(ImagePiece(latent) for latent in self.latents)
        for branch in branches:
            wanted = (len(drawn) if branch == "images" else 0, self.size)
            if branch != "full" and self.read.get(branch) != wanted:
                self.read[branch] = wanted
                pieces = branch_pieces(branch, (*self.prompt.pieces, *drawn), self.prompt.negative)
                yield self.slots[branch], maker.line(pieces, self.size)

    @property
    def writes(self) -> bool:
        return self.next_id is not None

    @property
    def waits(self) -> bool:
        return self.next_id is None and not self.ended
