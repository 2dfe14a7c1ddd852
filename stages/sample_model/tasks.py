"""What is asked of the model: prompts of the section and held-out documents, as the engine takes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stages.artifacts.latents import caption_of
from stages.core.errors import ExitCode, TfcliError
from stages.core.text import printable, shortened
from stages.generation.branches import branches_of, longest_branch
from stages.generation.config import GenerationConfig
from stages.generation.heldout import heldout_documents, is_pair, pieces_of
from stages.generation.layout import SequenceBuilder
from stages.generation.loading import LoadedModel
from stages.generation.prompts import ImagePiece, Piece, Prompt, Size, TextPiece
from stages.sample_model.config import MAX_COUNT, MixedPrompt, PromptOptions, SampleConfig, TextPart
from stages.sample_model.pictures import edit_of, picture_piece

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
    comes from. mixed: the prompt as it was written."""

    mode: str
    index: int
    prompt: Prompt
    key: str | None = None
    take: int = 0
    mixed: MixedPrompt | None = None

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
    asked = [
        engine_prompt(mixed, _pieces(mixed, loaded), sample.generation, loaded, _name(index, mixed))
        for index, mixed in enumerate(prompts)
    ]
    tasks = [
        Task("prompts", index, prompt, take=take, mixed=prompts[index])
        for index, prompt in enumerate(asked)
        for take in range(sample.count)
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
        prompt = Prompt((TextPiece(caption_of(document)),), image_next=True)
        tasks.append(Task("heldout_prompts", index, prompt, document.key))
    for index, document in enumerate(pairs[: sample.captions]):
        images = tuple(piece for piece in pieces_of(document, loaded) if isinstance(piece, ImagePiece))
        tasks.append(Task("captions", index, Prompt(images, max_images=0), document.key))
    for index, document in enumerate(longer[: sample.continued]):
        pieces = pieces_of(document, loaded)
        if isinstance(pieces[0], ImagePiece) and isinstance(pieces[-1], ImagePiece):  # an edit: what was asked is given
            prompt = Prompt(pieces[:-1], image_next=True)
        else:
            first = next(index for index, piece in enumerate(pieces) if isinstance(piece, ImagePiece))
            prompt = Prompt(pieces[: first + 1], max_images=limit)
        tasks.append(Task("continued", index, prompt, document.key))
    return tasks


def engine_prompt(
    prompt_options: PromptOptions,
    pieces: tuple[Piece, ...],
    generation: GenerationConfig,
    loaded: LoadedModel,
    name: str,
) -> Prompt:
    """A prompt of these parts as the engine takes it. name: for errors.

    Raises TfcliError: USAGE for what the model cannot take in or what would do nothing, INPUT for files that are no pictures.
    """
    kinds = {type(piece) for piece in pieces}
    begin, draw = prompt_options.begin, prompt_options.draw
    if draw is None:
        draw = True if begin else default_next(has_text=TextPiece in kinds, has_picture=ImagePiece in kinds)
    prompt = Prompt(
        pieces,
        image_next=draw is True,
        max_images=int(draw) if isinstance(draw, bool) else generation.max_images,
        size=None if prompt_options.size is None else latent_size(prompt_options.size, loaded),
        negative=prompt_options.negative,
        edit=None
        if begin is None
        else edit_of(Path(begin.image), None if begin.mask is None else Path(begin.mask), begin.strength, loaded),
    )
    _check_effect(prompt, generation, name)
    _check_length(prompt, generation, loaded, name)
    return prompt


def default_next(*, has_text: bool, has_picture: bool) -> bool | Literal["model"]:
    """What comes behind a prompt that does not say it: a picture behind text, text behind pictures, behind both (and behind
    nothing) what the model decides."""
    return "model" if has_text == has_picture else has_text


def _check_effect(prompt: Prompt, generation: GenerationConfig, name: str) -> None:
    """Raises TfcliError (USAGE) for a wish that could not change anything."""
    if not prompt.max_images and (prompt.size or prompt.negative):
        what = f"{name}: {'size' if prompt.size else 'negative'} is for a drawing"
        fix = "leave it out, or draw: --draw"
        raise TfcliError(what, why="after pictures alone the model writes text", fix=fix, code=ExitCode.USAGE)
    has_images = any(isinstance(piece, ImagePiece) for piece in prompt.pieces)
    settings = generation.guidance_settings()
    compared = [settings.branches(has_images=has) for has in {has_images, has_images or prompt.max_images > 1}]
    if prompt.negative and all(branches == ("full",) for branches in compared):
        raise TfcliError(
            f"{name}: negative text without guidance",
            why=f"guidance {settings.text:g} turns guidance off, so that it would have no effect",
            fix="set a guidance other than 1, such as --guidance 3, or leave the negative text out",
            code=ExitCode.USAGE,
        )


def _check_length(prompt: Prompt, generation: GenerationConfig, loaded: LoadedModel, name: str) -> None:
    """Raises TfcliError (USAGE) where the prompt, with the drawing that is asked for behind it, is longer than the rows of the
    training, or what guidance compares it with is."""
    content = loaded.checkpoint.content
    builder = SequenceBuilder(loaded.text, content.patch_side, loaded.size_ids)
    taken, more = len(builder.build(prompt.pieces).ids), ""
    if prompt.image_next or prompt.size or prompt.edit or prompt.negative:
        branches, more = branches_of(generation.guidance_settings()), " with the picture to come"
        taken = min(
            longest_branch(taken, branches, prompt.pieces, prompt.negative, size, builder)
            for size in _next_sizes(prompt, generation, loaded)
        )
    if prompt.size is not None and (needed := builder.num_elements(prompt.size)) > content.row_length:
        cell = loaded.latents.content.downsampling
        raise TfcliError(
            f"{name}: a picture of {prompt.size[1] * cell}x{prompt.size[0] * cell} is too large",
            why=f"it takes {needed:,} elements, the model was trained on rows of {content.row_length:,}",
            fix="give a smaller size, or train with a larger pack.row_length",
            code=ExitCode.USAGE,
        )
    if taken > content.row_length:
        raise TfcliError(
            f"{name} is too long",
            why=f"it takes {taken:,} elements{more}, the model was trained on rows of {content.row_length:,}",
            fix="give a shorter one or a smaller size, or train with a larger pack.row_length",
            code=ExitCode.USAGE,
        )


def _next_sizes(prompt: Prompt, generation: GenerationConfig, loaded: LoadedModel) -> list[Size]:
    """That of the next drawing; all that there are where the model chooses."""
    if prompt.edit is not None:
        return [(prompt.edit.latent.shape[1], prompt.edit.latent.shape[2])]
    if prompt.size is not None:
        return [prompt.size]
    if generation.height is not None and generation.width is not None:
        return [loaded.latent_size(generation.height, generation.width)]
    return list(loaded.size_ids) or [loaded.latent_shape[1:]]


def _pieces(mixed: MixedPrompt, loaded: LoadedModel) -> tuple[Piece, ...]:
    return tuple(
        TextPiece(part.text) if isinstance(part, TextPart) else picture_piece(Path(part.image), loaded)
        for part in mixed.parts
    )


def latent_size(size: str, loaded: LoadedModel) -> tuple[int, int]:
    """(h, w) of the latents of a picture of "WIDTHxHEIGHT" pixels. Raises TfcliError (USAGE) where it cannot be drawn."""
    width, height = (int(side) for side in size.split("x"))
    return loaded.latent_size(height, width)


def _name(index: int, mixed: MixedPrompt) -> str:
    text = "".join(part.text for part in mixed.parts if isinstance(part, TextPart))
    return f"prompt {index + 1} ({printable(shortened(text, 40))!r})"
