"""The engine's input and output: prompts, the events of a stream, and complete outputs.

Legend: C latent channels, h x w latent pixels. Everything here concerns one document; `prompt` in an event is its number.
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
    """A clean, normalised latent (C, h, w), of any size that patches divide. pixels: the picture that it was encoded from, uint8
    (height, width, 3), where there was a file."""

    latent: Tensor
    pixels: np.ndarray[Any, np.dtype[np.uint8]] | None = field(default=None, compare=False, repr=False)


Piece = TextPiece | ImagePiece
Size = tuple[int, int]  # (h, w) in latent pixels


@dataclass(frozen=True)
class ImageEdit:
    """An image that the denoising starts from, instead of from noise alone.

    latent: clean, normalised, (C, h, w). change_hw: True where the image may change (inpainting), None for everywhere.
    strength: share of the noise levels that the image goes through, 1 for all of them (variations). pixels: the picture itself,
    uint8 (height, width, 3), whose pixels are kept where it may not change; None: they come from the latent. reading: how a
    mask with transparent parts was interpreted, for people.
    """

    latent: Tensor
    change_hw: Tensor | None = None
    strength: float = 1.0
    pixels: np.ndarray[Any, np.dtype[np.uint8]] | None = None
    reading: str = ""


@dataclass(frozen=True)
class Prompt:
    """The start of a document, and its own options.

    image_next: an image must come next. max_images: how many it may generate in all. size: of the images that it generates;
    None: that of the settings, or what the model chooses, or that of the training images. negative: text that guidance leads
    away from, instead of from no text. stop: strings that end the document; they are not part of its text. edit: what its
    first image starts from, which also sets its size.
    """

    pieces: tuple[Piece, ...] = ()
    image_next: bool = False
    max_images: int = 1
    size: Size | None = None
    negative: str = ""
    stop: tuple[str, ...] = ()
    edit: ImageEdit | None = None


@dataclass(frozen=True)
class TextAdded:
    """Text that was added to a document. All texts of a run, joined, are the text of its piece."""

    prompt: int
    text: str


@dataclass(frozen=True)
class ImageStarted:
    """The denoising of an image of (h, w) latent pixels starts. number: of the image in its document, from 0."""

    prompt: int
    number: int
    size: Size


@dataclass(frozen=True)
class Denoised:
    """One step of an image under way: the estimate of its clean latent (C, h, w) from x_t, clamped to the limit of latents, and
    with the latent of an edit where that may not change. Only on request."""

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
    """The document ends. reason: "eos" (by itself), "drawn" (the one image that the prompt requires), "stop" (a stop string), or
    a limit: "text", "images", "length" (of the training's rows; nothing is generated beyond it)."""

    prompt: int
    reason: str


GenerationEvent = TextAdded | ImageStarted | Denoised | ImageDone | Ended


@dataclass
class Output:
    """What the model added to a prompt. ended: the reason, see `Ended`."""

    pieces: list[Piece] = field(default_factory=list)
    ended: str = ""


def collect(events: Iterable[GenerationEvent]) -> dict[int, Output]:
    """The outputs that the events of a stream add up to, by the numbers of their prompts."""
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
