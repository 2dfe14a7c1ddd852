"""The recipe section [eval]: how many held-out documents are drawn, written and judged."""

from __future__ import annotations

from pydantic import Field

from stages.core.config import Section
from stages.generation.config import GenerationConfig

VERSION = 7  # of the stage; raised where the same settings give other bytes


class EvalConfig(Section):
    """How many held-out documents are generated and judged. The judge knows the sources "shapes" and "shapes-edits"; for others
    the scores are the held-out losses alone."""

    generation: GenerationConfig = GenerationConfig()
    """Settings of generation for the evaluation; the same keys as [sample.generation]."""
    text_to_image: int = Field(200, ge=0)
    """Held-out captions that are drawn and judged: so many of each side (new claims, new things, alike), at most as many as there
    are. They are spread evenly over the kinds of captions."""
    image_to_text: int = Field(200, ge=0)
    """Held-out pictures that are described and judged: so many of each side, at most as many as there are. As many captions with
    a relation are compared, by likelihood, with their opposite."""
    unconditional: int = Field(100, ge=0)
    """Pictures that are drawn without any text, to count their things."""
    free: int = Field(100, ge=0)
    """Documents that the model writes and draws from nothing."""
    edits: int = Field(200, ge=0)
    """Held-out edits (source "shapes-edits"): picture and instruction are given, the changed picture is drawn and judged."""
    stories: int = Field(100, ge=0)
    """Held-out stories (source "shapes"): each is continued from its first picture, its last picture is drawn, and its first
    change is drawn from the picture of another story."""
    inpainted: int = Field(50, ge=0)
    """Held-out pictures whose right half is drawn again from the caption."""
    free_temperature: float = Field(1.0, ge=0)
    """Temperature of the documents of `free`; at 0 all of them would begin alike."""
