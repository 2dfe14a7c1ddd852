"""What is asked of the model: prompts of the section and held-out documents, as the engine takes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from stages.artifacts.latents import caption_of
from stages.core.errors import ExitCode, TfcliError
from stages.generation.heldout import heldout_documents, is_pair, pieces_of
from stages.generation.loading import LoadedModel
from stages.generation.prompts import ImagePiece, Piece, Prompt, TextPiece
from stages.sample_model.config import MAX_COUNT, MixedPrompt, PicturePart, SampleConfig, TextPart
from stages.sample_model.pictures import edit_of, picture_piece
from stages.sources.text_rules import printable

# Modes in the order of the page, with the heading that a reader sees.
MODES = {
    "prompts": "Your prompts",
    "heldout_prompts": "Text to image, held-out prompts",
    "captions": "Image to text, held-out pictures",
    "continued": "Held-out documents continued",
    "free": "Written and drawn from nothing",
}


@dataclass(frozen=True)
class Task:
    """A prompt with its mode, its place in there, which of several samples it is for, and the key of the document that it
    comes from."""

    mode: str
    index: int
    prompt: Prompt
    key: str | None = None
    take: int = 0

    @property
    def number(self) -> int:
        """What names its random draws and its events."""
        return draw_number(self.index, self.take)


def draw_number(index: int, take: int) -> int:
    """Of a sample of the prompt in that place: neither other prompts nor more samples change it."""
    assert 0 <= take < MAX_COUNT
    return index * MAX_COUNT + take


def make_tasks(sample: SampleConfig, loaded: LoadedModel) -> list[Task]:
    """All that the section asks for, mode by mode."""
    prompts = sample.mixed_prompts()
    limit = sample.generation.max_images
    asked = [engine_prompt(mixed, limit, loaded, _name(index, mixed)) for index, mixed in enumerate(prompts)]
    tasks = [
        Task("prompts", index, prompt, take=take) for index, prompt in enumerate(asked) for take in range(sample.count)
    ]
    if sample.heldout_prompts or sample.captions or sample.continued:
        tasks += _heldout(sample, loaded, limit)
    return tasks + [Task("free", index, Prompt(max_images=limit)) for index in range(sample.free)]


def _heldout(sample: SampleConfig, loaded: LoadedModel, limit: int) -> list[Task]:
    documents = list(heldout_documents(loaded))
    pairs = [document for document in documents if is_pair(document)]
    longer = [document for document in documents if document.fixed_order and len(document.segments) > 2]
    tasks = []
    for index, document in enumerate(pairs[: sample.heldout_prompts]):
        prompt = Prompt((TextPiece(caption_of(document)),), draw=True)
        tasks.append(Task("heldout_prompts", index, prompt, document.key))
    for index, document in enumerate(pairs[: sample.captions]):
        images = tuple(piece for piece in pieces_of(document, loaded) if isinstance(piece, ImagePiece))
        tasks.append(Task("captions", index, Prompt(images, max_images=0), document.key))
    for index, document in enumerate(longer[: sample.continued]):
        pieces = pieces_of(document, loaded)
        if isinstance(pieces[0], ImagePiece) and isinstance(pieces[-1], ImagePiece):  # an edit: what was asked is given
            prompt = Prompt(pieces[:-1], draw=True)
        else:
            first = next(place for place, piece in enumerate(pieces) if isinstance(piece, ImagePiece))
            prompt = Prompt(pieces[: first + 1], max_images=limit)
        tasks.append(Task("continued", index, prompt, document.key))
    return tasks


def engine_prompt(mixed: MixedPrompt, max_images: int, loaded: LoadedModel, name: str) -> Prompt:
    """Pictures read, cropped and resized as those that the model was trained on, and encoded by the same autoencoder.

    Raises TfcliError: INPUT for a picture that cannot be used, USAGE for a prompt longer than the rows of the training, for a
    size that patches do not divide, and for a mask that does not fit.
    """
    pieces = tuple(
        TextPiece(part.text) if isinstance(part, TextPart) else picture_piece(Path(part.image), loaded)
        for part in mixed.parts
    )
    draw = mixed.draw
    if draw is None and mixed.begin is None:
        kinds = {type(part) for part in mixed.parts}
        draw = default_next(has_text=TextPart in kinds, has_picture=PicturePart in kinds)
    size = None if mixed.size is None else latent_size(mixed.size, loaded)
    begin = mixed.begin
    edit = None
    if begin is not None:
        mask = None if begin.mask is None else Path(begin.mask)
        edit = edit_of(Path(begin.image), mask, begin.strength, loaded)
    prompt = prompt_to(True if draw is None else draw, pieces, max_images, loaded, name, size)
    return replace(prompt, negative=mixed.negative, edit=edit)


def default_next(*, has_text: bool, has_picture: bool) -> bool | Literal["model"]:
    """What comes behind a prompt that does not say it: a picture behind text, text behind pictures, behind both (and behind
    nothing) what the model decides."""
    return "model" if has_text == has_picture else has_text


def prompt_to(
    draw: bool | str,
    pieces: tuple[Piece, ...],
    max_images: int,
    loaded: LoadedModel,
    name: str,
    size: tuple[int, int] | None = None,
) -> Prompt:
    """draw: True a picture comes next and ends it, False text alone, "model" up to max_images pictures. size: of latents."""
    taken = sum(_length(piece, loaded) for piece in pieces)
    if size is not None:
        taken += _patches(*size, loaded)
    rows = loaded.checkpoint.content.row_length
    if taken > rows:
        raise TfcliError(
            f"{name} is too long",
            why=f"it takes {taken:,} places, the model was trained on rows of {rows:,}",
            fix="give a shorter one or a smaller size, or train with a larger pack.row_length",
            code=ExitCode.USAGE,
        )
    if draw is True:
        return Prompt(pieces, draw=True, size=size)
    return Prompt(pieces, max_images=max_images if draw == "model" else 0, size=size)


def latent_size(size: str, loaded: LoadedModel) -> tuple[int, int]:
    """(h, w) of the latents of a picture of "WIDTHxHEIGHT" pixels. Raises TfcliError (USAGE) where it cannot be drawn."""
    width, height = (int(side) for side in size.split("x"))
    return loaded.latent_size(height, width)


def _length(piece: Piece, loaded: LoadedModel) -> int:
    if isinstance(piece, TextPiece):
        return len(loaded.text.encode(piece.text))
    _, height, width = piece.latent.shape
    return _patches(height, width, loaded)


def _patches(height: int, width: int, loaded: LoadedModel) -> int:
    """Places that an image takes, BOI and EOI among them."""
    return height * width // loaded.checkpoint.content.patch_side**2 + 2


def _name(index: int, mixed: MixedPrompt) -> str:
    text = "".join(part.text for part in mixed.parts if isinstance(part, TextPart))
    return f"prompt {index + 1} ({printable(text if len(text) <= 40 else text[:37] + '...')!r})"
