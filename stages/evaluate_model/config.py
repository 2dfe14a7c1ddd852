"""The recipe section [eval]: how many held-out documents are drawn, written and judged."""

from __future__ import annotations

from pydantic import Field

from stages.core.config import Section
from stages.generation.config import GenerationConfig

VERSION = 6  # of the stage; raised where the same settings give other bytes


class EvalConfig(Section):
    """text_to_image, image_to_text, free, edits, stories, inpainted: documents of each kind (stories are gone on with, and
    their first turn is drawn). The judge knows the `shapes` world only."""

    generation: GenerationConfig = GenerationConfig()
    text_to_image: int = Field(200, ge=0)
    image_to_text: int = Field(200, ge=0)
    free: int = Field(100, ge=0)
    edits: int = Field(200, ge=0)
    stories: int = Field(100, ge=0)
    inpainted: int = Field(50, ge=0)
    free_temperature: float = Field(1.0, ge=0)
