"""How text and images are drawn from a trained model: shared by the sections [sample] and [eval]."""

from __future__ import annotations

from pydantic import Field

from stages.core.config import Section
from stages.diffusion.samplers import DdimSampler, Sampler


class GenerationConfig(Section):
    """guidance: w in eps_u + w (eps_c - eps_u), 1 means none. temperature 0: greedy text (paper).

    max_text_tokens: limit for each run of text. max_images: limit for a document; both end the document.
    """

    sampler: Sampler = DdimSampler()
    guidance: float = Field(3.0, ge=0)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_text_tokens: int = Field(64, ge=1)
    max_images: int = Field(4, ge=1)
    batch_size: int = Field(32, ge=1)
