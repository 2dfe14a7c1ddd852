"""How text and images are drawn from a trained model: shared by the sections [sample] and [eval]."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.core.config import Section
from stages.diffusion.guidance import Guidance
from stages.diffusion.samplers import DdimSampler, Sampler

Precision = Literal["fp32", "bf16"]


class GenerationConfig(Section):
    """guidance: w in x_u + w (x_c - x_u), x_c with the text before the image and x_u without; 1 means none. image_guidance: the
    same for images before it; unset: they are left out together with the text. guidance_interval: noise levels, between 0
    and 1, above the first and up to the second, that are guided. guidance_rescale: share by which the deviation of a guided
    estimate is brought back.

    temperature 0: greedy text (paper), which the next three do not touch. top_k: 0 for all. stop: strings that end a
    document, beside those of its prompt. max_text_tokens: limit for each run of text. max_images: limit for a document; both
    end the document. height, width: of drawn pictures, in pixels; unset: what the model chooses where it was trained with
    size tokens, else the first size of training. precision: "bf16" multiplies in bf16: faster, with its rounding
    (BENCHMARKS.md).
    """

    sampler: Sampler = DdimSampler()
    guidance: float = Field(3.0, ge=0)
    image_guidance: float | None = Field(None, ge=0)
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    temperature: float = Field(0.0, ge=0)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, lt=1)
    repetition_penalty: float = Field(1.0, ge=1)
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    max_text_tokens: int = Field(64, ge=1)
    max_images: int = Field(4, ge=1)
    height: int | None = Field(None, ge=1)
    width: int | None = Field(None, ge=1)
    batch_size: int = Field(32, ge=1)
    precision: Precision = "fp32"

    @model_validator(mode="after")
    def _check(self) -> GenerationConfig:
        low, high = self.guidance_interval
        if not 0 <= low < high <= 1:
            raise ValueError(f"guidance_interval [{low}, {high}] must rise and lie between 0 (clean) and 1 (noise)")
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width go together: set both or neither")
        return self

    def within(self, num_steps: int) -> GenerationConfig:
        """The same with no more steps than the model has noise levels: what a sampler takes anyway, and so what records say."""
        if self.sampler.steps <= num_steps:
            return self
        return self.model_copy(update={"sampler": self.sampler.model_copy(update={"steps": num_steps})})

    def guided_by(self) -> Guidance:
        """The settings of guidance together."""
        return Guidance(self.guidance, self.image_guidance, self.guidance_interval, self.guidance_rescale)
