"""A document while it is generated, and its runs of text, which are emitted as soon as they are certain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stages.diffusion.guidance import Branch
from stages.generation.branches import branch_pieces
from stages.generation.layout import SequenceBuilder, TokenSequence
from stages.generation.prompts import ImageEdit, ImagePiece, Prompt, Size

if TYPE_CHECKING:
    from torch import Tensor

    from stages.coders.text import TextCoder


class TextRun:
    """The ids of a run of text. All that it emits, joined, is its text up to a stop string.

    It holds back bytes that are no complete character yet, and an end that could become a stop string.
    """

    def __init__(self, text: TextCoder, stop: tuple[str, ...] = ()) -> None:
        self.text, self.stop = text, stop
        self.ids: list[int] = []
        self.stopped = False
        self._held = ""
        # offsets in ids: a piece's text depends on the one before it, so that one is decoded again
        self._start = self._decoded = 0

    def add(self, token: int) -> str:
        """Append an id; returns the text that is certain now."""
        self.ids.append(token)
        return self._emit(last=False)

    def close(self) -> str:
        """Returns what was held back; the next id starts a new run."""
        text = "" if self.stopped else self._emit(last=True)
        self.ids, self._held, self._start, self._decoded = [], "", 0, 0
        return text

    def _emit(self, *, last: bool) -> str:
        before = self.text.decode(self.ids[self._start : self._decoded])
        now = self.text.decode(self.ids[self._start :])
        if last or not now.endswith("\ufffd"):
            self._held += now[len(before) :]
            self._start, self._decoded = self._decoded, len(self.ids)
        found = [index for stop in self.stop if (index := self._held.find(stop)) >= 0]
        self.stopped = bool(found)
        keep = min(found) if found else len(self._held) - (0 if last else self._uncertain())
        text, self._held = self._held[:keep], self._held[keep:]
        return text

    def _uncertain(self) -> int:
        """Characters at the end that may be the start of a stop string."""
        lengths = (size for stop in self.stop for size in range(1, len(stop)) if self._held.endswith(stop[:size]))
        return max(lengths, default=0)


@dataclass
class DocumentState:
    """A document under way.

    index: its number in events and random draws. slots: of the cache, by branch of guidance ("full" is the document itself).
    run: its current run of text. next_id: the id that is fed to the model next; None while it waits for its image (whose BOI
    is in the cache) and after it has ended. num_images: images generated so far. seen: the ids of its text. size: (h, w) of
    its next image, None until it is known. fixed_size: of all images that it generates, None where the model chooses.
    branch_contents: what its other branches hold, the number of images and the size that the next one was opened with.
    latents: the images that were generated.
    """

    index: int
    slots: dict[Branch, int]
    prompt: Prompt
    run: TextRun
    next_id: int | None = None
    num_images: int = 0
    ended: bool = False
    seen: list[int] = field(default_factory=list)
    size: Size | None = None
    fixed_size: Size | None = None
    branch_contents: dict[Branch, tuple[int, Size]] = field(default_factory=dict)
    latents: list[Tensor] = field(default_factory=list)

    @property
    def edit(self) -> ImageEdit | None:
        """What its next image starts from."""
        return None if self.num_images else self.prompt.edit

    @property
    def required_size(self) -> Size | None:
        """The size of its next image, None where the model chooses."""
        if self.edit is None:
            return self.fixed_size
        height, width = self.edit.latent.shape[1:]
        return height, width

    @property
    def has_images(self) -> bool:
        """Whether there is an image before the next one."""
        return bool(self.latents) or any(isinstance(piece, ImagePiece) for piece in self.prompt.pieces)

    def stale_branches(
        self, branches: Sequence[Branch], builder: SequenceBuilder
    ) -> Iterator[tuple[int, TokenSequence]]:
        """Slots and sequences of the branches other than "full" that do not hold what they need for the next image: its opening,
        and the images before it. They count as up to date from here on."""
        assert self.size is not None
        generated = tuple(ImagePiece(latent) for latent in self.latents)
        for branch in branches:
            needed = (len(generated) if branch == "images" else 0, self.size)
            if branch != "full" and self.branch_contents.get(branch) != needed:
                self.branch_contents[branch] = needed
                pieces = branch_pieces(branch, (*self.prompt.pieces, *generated), self.prompt.negative)
                yield self.slots[branch], builder.build(pieces, self.size)

    @property
    def is_writing(self) -> bool:
        return self.next_id is not None

    @property
    def waits_for_image(self) -> bool:
        return self.next_id is None and not self.ended
