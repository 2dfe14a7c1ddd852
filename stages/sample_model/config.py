"""The recipe section [sample]: what to draw and write from the finished checkpoint."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, StrictBool, model_validator

from stages.core.config import Section
from stages.generation.config import GenerationConfig

VERSION = 7  # of the stage; raised where the same settings give other bytes

MAX_COUNT = 1000  # samples of a prompt; a part of the names of random draws (tasks.py)


class TextPart(Section):
    """Text inside a prompt."""

    text: str
    """The text, as the model reads it."""


class PicturePart(Section):
    """A picture inside a prompt."""

    image: str
    """The path of a picture file."""


class EditOptions(Section):
    """A picture that drawing begins from, instead of from noise alone: variations and inpainting."""

    image: str
    """The path of the picture file."""
    mask: str | None = None
    """The path of a picture of the same size, white (or transparent) where it may change. Not set: everywhere."""
    strength: float = Field(1.0, gt=0, le=1)
    """Share of the noise levels that the picture goes through: near 0 it hardly changes, at 1 only what the mask keeps is left.
    Without a mask it must be below 1."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mask is None and self.strength == 1:
            raise ValueError(
                "begin needs a strength below 1 or a mask: at 1 all noise is gone through and nothing is kept"
            )
        return self


class PromptOptions(Section):
    """What a prompt asks for in addition to its parts."""

    draw: StrictBool | Literal["model"] | None = None
    """What comes after the prompt: true draws a picture and ends, false writes text only, "model" lets the model decide. Not
    set: text alone is drawn, pictures alone are described, after a mixture the model decides; with begin a picture is drawn."""
    size: str | None = Field(None, pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$")
    """Size in pixels of what it draws, as "WIDTHxHEIGHT". Not set: as sample.generation.height and width."""
    negative: str = ""
    """Text that guidance leads away from (a negative prompt)."""
    begin: EditOptions | None = None
    """A picture that the first drawing begins from: `{ image = "a.png", mask = "hole.png", strength = 0.6 }`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        idle = [key for key in ("size", "negative", "begin") if getattr(self, key)]
        if idle and self.draw is False:
            raise ValueError(f"{idle[-1]} is for a drawing: draw is false")
        if self.begin is not None and self.size is not None:
            raise ValueError("begin and size exclude each other: a drawing is as large as what it begins from")
        return self


class MixedPrompt(PromptOptions):
    """What a document begins with, in order, and what is asked for."""

    parts: tuple[TextPart | PicturePart, ...]
    """Texts and pictures in order: `[{ text = "..." }, { image = "a.png" }]`. May be empty where begin is set."""

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
    """What is sampled from the finished checkpoint: your prompts, held-out documents, and documents from nothing."""

    generation: GenerationConfig = GenerationConfig()
    """Settings of generation; the previews of training use them too."""
    prompts: tuple[str | MixedPrompt, ...] = ()
    """Texts to draw, or tables of text and pictures to continue: `["a red circle", { parts = [{ image = "a.png" }] }]`."""
    count: int = Field(1, ge=1, le=MAX_COUNT)
    """Samples of each of prompts."""
    heldout_prompts: int = Field(16, ge=0)
    """Held-out captions to draw, at most as many as there are."""
    captions: int = Field(8, ge=0)
    """Held-out pictures to describe, at most as many as there are."""
    continued: int = Field(4, ge=0)
    """Held-out documents of more than two parts to continue: from their first picture on, or of an edit the last picture."""
    free: int = Field(8, ge=0)
    """Documents that the model writes and draws from nothing."""
    free_temperature: float = Field(1.0, ge=0)
    """Temperature of the documents of `free`; at 0 all of them would begin alike."""
    gif: bool = False
    """Write the denoising of each picture as an animation next to it."""

    def mixed_prompts(self) -> list[MixedPrompt]:
        """The prompts, bare texts as prompts of one part."""
        return [MixedPrompt(parts=(TextPart(text=one),)) if isinstance(one, str) else one for one in self.prompts]

    def pictures(self) -> list[str]:
        """The files that the prompts name."""
        return sorted({name for prompt in self.mixed_prompts() for name in prompt.pictures()})
