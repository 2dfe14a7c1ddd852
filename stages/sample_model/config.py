"""The recipe section [sample]: what to draw and write from the finished checkpoint."""

from __future__ import annotations

from pydantic import Field

from stages.core.config import Section
from stages.generation.config import GenerationConfig


class SampleConfig(Section):
    """prompts: texts to draw, beside `heldout_prompts` texts, `captions` pictures and `continued` documents of the
    held-out side (of an edit, which begins and ends with an image: the last one). free: documents that the model writes
    from nothing, with `free_temperature`.
    """

    generation: GenerationConfig = GenerationConfig()
    prompts: tuple[str, ...] = ()
    heldout_prompts: int = Field(16, ge=0)
    captions: int = Field(8, ge=0)
    continued: int = Field(4, ge=0)
    free: int = Field(8, ge=0)
    free_temperature: float = Field(1.0, ge=0)
