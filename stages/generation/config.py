"""How text and images are drawn from a trained model: shared by the sections [sample] and [eval]."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.core.config import Section
from stages.diffusion.guidance import Guidance
from stages.diffusion.samplers import DdimSampler, Sampler

Precision = Literal["fp32", "bf16"]


class GenerationConfig(Section):
    """How a trained model writes text and draws images."""

    sampler: Sampler = DdimSampler()
    """The diffusion sampler that turns noise into an image, and its number of steps."""
    guidance: float = Field(3.0, ge=0)
    """Scale w of classifier-free guidance: x_u + w (x_c - x_u), where x_c is the prediction with the text before the image and
    x_u the one without. 1: no guidance, and half of the denoising work. The paper uses 5 to compare with Chameleon and 3 in its
    ablations (section 4.1). It works only with a model that was trained with pack.condition_dropout above 0."""
    image_guidance: float | None = Field(None, ge=0)
    """A separate scale for the images that come before the new one, as in InstructPix2Pix (Brooks et al. 2023, eq. 3). Not
    set: these images are left out of the prediction without condition together with the text, with the scale of guidance."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Noise levels between 0 (clean) and 1 (noise) at which guidance is used: above the first number, up to the second
    (Kynkaanniemi et al. 2024). Outside of it the sampler uses the prediction with the text alone. Default: everywhere."""
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    """How much of the standard deviation that guidance adds to an estimate is taken back: 0 none, 1 all (Lin et al. 2024, eq.
    15 and 16). A value above 0 softens the harsh contrast of strong guidance."""
    temperature: float = Field(0.0, ge=0)
    """Divides the logits of the next token before one is sampled. 0: greedy, the most likely token (paper, section 4.1); then
    top_k, top_p and min_p have no effect."""
    top_k: int = Field(0, ge=0)
    """Sample among the k most likely tokens only. 0: no limit."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample among the fewest most likely tokens whose probabilities sum to this (nucleus sampling, Holtzman et al. 2020). 1: no
    limit."""
    min_p: float = Field(0.0, ge=0, lt=1)
    """Leave out tokens that are less likely than this times the most likely token (Nguyen et al. 2024). 0: no limit."""
    repetition_penalty: float = Field(1.0, ge=1)
    """Makes tokens that the document already has less likely: logits above 0 are divided by it, others multiplied (Keskar et
    al. 2019, section 4.1). Used at temperature 0 too. 1: no penalty."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Strings that end a document when the model writes one of them; the string itself is not part of the result."""
    max_text_tokens: int = Field(64, ge=1)
    """Limit in tokens for each run of text; a longer one ends its document."""
    max_images: int = Field(4, ge=1)
    """Limit of images that a document may draw where the model chooses; one more ends the document."""
    height: int | None = Field(None, ge=1)
    """Height in pixels of drawn images; goes with width. Not set: the model chooses if it was trained with pack.size_tokens,
    else the first size of the training."""
    width: int | None = Field(None, ge=1)
    """Width in pixels of drawn images; goes with height."""
    batch_size: int = Field(32, ge=1)
    """Documents that are generated at the same time: more is faster and needs more memory. Random draws do not depend on it."""
    precision: Precision = "fp32"
    """Number format of the transformer's weights and products: "fp32", or "bf16", which is faster and rounds more
    (docs/benchmarks.md). The autoencoder stays in fp32."""

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
