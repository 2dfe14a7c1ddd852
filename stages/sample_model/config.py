"""The recipe section [sample]: what to draw and write from the finished checkpoint."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, StrictBool, model_validator

from stages.core.config import Section
from stages.generation.config import GenerationConfig

MAX_COUNT = 1000  # samples of a prompt; a part of the names of random draws (tasks.py)


class TextPart(Section):
    """Text inside a prompt."""

    text: str


class PicturePart(Section):
    """A picture inside a prompt: the path of a file."""

    image: str


class EditOptions(Section):
    """A picture that drawing begins from, instead of from noise alone. mask: a picture of the same size, white where it may
    change, or with a hole erased there (inpainting). strength: share of the noise levels that it goes through (variations), 1
    for all; then nothing of the picture is left but what the mask keeps."""

    image: str
    mask: str | None = None
    strength: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mask is None and self.strength == 1:
            raise ValueError(
                "begin needs a strength below 1 or a mask: at 1 all noise is gone through and nothing is kept"
            )
        return self


class PromptOptions(Section):
    """What a prompt asks for in addition to its parts. draw: true draws a picture next and ends with it, false writes text only,
    "model" leaves what comes next to the model; without it a prompt of text alone draws, one of pictures alone writes, and
    after a mixture the model decides. size: "WIDTHxHEIGHT" in pixels of what it draws. negative: text that guidance leads
    away from. begin: what its first drawing begins from.
    """

    draw: StrictBool | Literal["model"] | None = None
    size: str | None = Field(None, pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$")
    negative: str = ""
    begin: EditOptions | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        idle = [key for key in ("size", "negative", "begin") if getattr(self, key)]
        if idle and self.draw is False:
            raise ValueError(f"{idle[-1]} is for a drawing: draw is false")
        if self.begin is not None and self.size is not None:
            raise ValueError("begin and size exclude each other: a drawing is as large as what it begins from")
        return self


class MixedPrompt(PromptOptions):
    """What a document begins with, in order, and what is asked for. parts may be empty where `begin` is given."""

    parts: tuple[TextPart | PicturePart, ...]

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if not self.parts and self.begin is None:
            raise ValueError("parts is empty")
        return self

    def pictures(self) -> list[str]:
        """The files that it names."""
        found = [part.image for part in self.parts if isinstance(part, PicturePart)]
        if self.begin is not None:
            found += [self.begin.image, *([self.begin.mask] if self.begin.mask else [])]
        return found


class SampleConfig(Section):
    """prompts: texts to draw, or mixtures of text and pictures to continue, each `count` times. heldout_prompts, captions,
    continued: how many texts, pictures and documents of the held-out side are drawn, captioned and continued (an edit, which
    begins and ends with an image, is continued before its last image). free: documents that the model writes from nothing,
    with `free_temperature`. gif: also the denoising of each picture, as an animation next to it.
    """

    generation: GenerationConfig = GenerationConfig()
    prompts: tuple[str | MixedPrompt, ...] = ()
    count: int = Field(1, ge=1, le=MAX_COUNT)
    heldout_prompts: int = Field(16, ge=0)
    captions: int = Field(8, ge=0)
    continued: int = Field(4, ge=0)
    free: int = Field(8, ge=0)
    free_temperature: float = Field(1.0, ge=0)
    gif: bool = False

    def mixed_prompts(self) -> list[MixedPrompt]:
        """The prompts, bare texts as prompts of one part."""
        return [MixedPrompt(parts=(TextPart(text=one),)) if isinstance(one, str) else one for one in self.prompts]

    def pictures(self) -> list[str]:
        """The files that the prompts name."""
        return sorted({name for prompt in self.mixed_prompts() for name in prompt.pictures()})
