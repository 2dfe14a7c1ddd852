"""What goes into the engine and what comes out: prompts, the events of a stream, and whole outputs.

Legend: C latent channels, h x w latent pixels. Everything here is of one document; `prompt` in an event is its number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class TextPiece:
    """Text inside a prompt or an output."""

    text: str


@dataclass(frozen=True)
class ImagePiece:
    """A clean, normalised latent (C, h, w), of any grid that patches divide. pixels: the picture that it was made of, uint8
    (height, width, 3), where a file was given."""

    latent: Tensor
    pixels: np.ndarray[Any, np.dtype[np.uint8]] | None = field(default=None, compare=False, repr=False)


Piece = TextPiece | ImagePiece
Size = tuple[int, int]  # (h, w) in latent pixels


@dataclass(frozen=True)
class Edit:
    """An image that drawing begins from, instead of from noise alone.

    latent: clean, normalised, (C, h, w). change_hw: True where the image may change, None for everywhere (inpainting).
    strength: share of the noise levels that the image goes through, 1 for all of them (variations). pixels: the image itself,
    uint8 (height, width, 3), where what is kept of it shall have its very pixels. reading: how a mask with transparent parts
    was understood, for people.
    """

    latent: Tensor
    change_hw: Tensor | None = None
    strength: float = 1.0
    pixels: np.ndarray[Any, np.dtype[np.uint8]] | None = None
    reading: str = ""


@dataclass(frozen=True)
class Prompt:
    """What a document begins with, and its own options.

    draw: an image must come next. max_images: how many it may draw in all. size: of the images that it draws; None: that of
    the settings, or what the model chooses, or that of the training images. negative: text that guidance leads away from,
    instead of from nothing. stop: strings that end the document; they are left out of its text. edit: what its first image
    begins from, and whose size it has.
    """

    pieces: tuple[Piece, ...] = ()
    draw: bool = False
    max_images: int = 1
    size: Size | None = None
    negative: str = ""
    stop: tuple[str, ...] = ()
    edit: Edit | None = None


@dataclass(frozen=True)
class TextAdded:
    """Text that a document goes on with. All of a run, joined, are the text of its piece."""

    prompt: int
    text: str


@dataclass(frozen=True)
class ImageBegun:
    """An image of (h, w) latent pixels, the document's `number`-th from 0, will be denoised now."""

    prompt: int
    number: int
    size: Size


@dataclass(frozen=True)
class Denoised:
    """One step of an image under way: the estimate of its clean latent (C, h, w) from x_t, as the sampler takes it, within the
    limit of latents and with what is known of an edit in its place. Only on request."""

    prompt: int
    number: int
    t: int
    estimate: Tensor


@dataclass(frozen=True)
class ImageDone:
    """A finished image."""

    prompt: int
    number: int
    image: ImagePiece


@dataclass(frozen=True)
class Ended:
    """The document ends. reason: "eos" (by itself), "drawn" (the one drawing that was asked for), "stop" (a stop string), or
    which limit: "text", "images", "length" (of the rows of the training; what would go beyond is neither written nor drawn)."""

    prompt: int
    reason: str


Event = TextAdded | ImageBegun | Denoised | ImageDone | Ended


@dataclass
class Output:
    """What the model added to a prompt. ended: as in `Ended`."""

    pieces: list[Piece] = field(default_factory=list)
    ended: str = ""


def collect(events: Iterable[Event]) -> dict[int, Output]:
    """The outputs that a stream tells of, by the numbers of their prompts."""
    found: dict[int, Output] = {}
    for event in events:
        output = found.setdefault(event.prompt, Output())
        match event:
            case TextAdded(text=text):
                last = output.pieces[-1] if output.pieces else None
                if isinstance(last, TextPiece):
                    output.pieces[-1] = TextPiece(last.text + text)
                else:
                    output.pieces.append(TextPiece(text))
            case ImageDone(image=image):
                output.pieces.append(image)
            case Ended(reason=reason):
                output.ended = reason
    return found
