"""The recipe section [vae]: train a small autoencoder on the recipe's own pictures, or take a finished one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.core.config import Section, neutral

VERSION = 1  # of the stage; raised where the same settings give other bytes


class TrainVae(Section):
    """A diffusers AutoencoderKL trained from scratch on pictures of the source (paper, appendix A)."""

    kind: Literal["train"] = "train"
    """Train a convolutional autoencoder on the recipe's own pictures."""
    channels: tuple[int, ...] = Field((32, 64, 128), min_length=1)
    """Channels at each resolution, finest first. Sides are halved between two entries: three entries mean a factor of 4, four a
    factor of 8 (paper: 8)."""
    layers_per_block: int = Field(1, ge=1)
    """Residual layers at each resolution of the encoder; the decoder has one more."""
    latent_channels: int = Field(4, ge=1)
    """Channels of the latents (paper, section 4.1: 8)."""
    norm_groups: int = Field(8, ge=1)
    """Groups of the group norms; must divide each of channels."""
    steps: int = Field(2000, ge=1)
    """Optimizer steps (paper, appendix A: 1 M)."""
    batch_size: int = Field(32, ge=1)
    """Pictures in a step."""
    learning_rate: float = Field(2e-3, gt=0)
    """The highest learning rate of AdamW; after the warm-up it falls by a cosine to 1 % of it."""
    warmup_steps: int = Field(100, ge=0)
    """Steps in which the learning rate rises to learning_rate."""
    l1_weight: float = Field(1.0, ge=0)
    """Weight of the mean absolute error of pixels (paper, appendix A: 1)."""
    rmse_weight: float = Field(0.0, ge=0)
    """Weight of each picture's root mean square error, in addition to L1. L1 alone draws the median, so that small things on flat
    grounds appear late: 22 dB after 400 steps on shapes, with it 27 dB (measured). The paper has no such term."""
    kl_weight: float = Field(1e-6, ge=0)
    """Weight of the KL divergence of the latents from a standard normal (paper, appendix A: 1e-6)."""
    lpips_weight: float = Field(0.0, ge=0)
    """Weight of the perceptual loss LPIPS (paper, appendix A: 1). Above 0 it needs lpips_weights. 0: not used."""
    lpips_weights: Path | None = None
    """A safetensors file with the converted weights of LPIPS; docs/training.md says how to make it."""
    gan_weight: float = Field(0.0, ge=0)
    """Weight of the loss of a patch discriminator (paper, appendix A: 0.5). 0: no discriminator."""
    gan_start_step: int = Field(50_000, ge=0)
    """The step from which the discriminator is trained and counts (paper, appendix A: 50,000)."""
    gan_learning_rate: float = Field(2e-4, gt=0)
    """Learning rate of the discriminator's AdamW, constant."""
    ema_decay: float = Field(0.995, ge=0, lt=1)
    """Decay of the running average of the weights, which becomes the autoencoder; it is smaller in the first steps. 0: the last
    weights."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of products in training. With "bf16" weights and optimizer stay in fp32 (autocast)."""
    max_pictures: int = Field(20_000, ge=1)
    """The most pictures for training, the first of the source; they are kept in memory."""
    heldout_pictures: int = Field(64, ge=1)
    """Pictures that are kept out of training to measure the PSNR, at most a fifth of those read."""
    save_every: int = neutral(200, ge=1)
    """Steps between two saves, from which a stopped training resumes."""

    @model_validator(mode="after")
    def _groups_divide(self) -> TrainVae:
        if odd := [channels for channels in self.channels if channels % self.norm_groups]:
            raise ValueError(f"norm_groups = {self.norm_groups} must divide each of channels, {odd[0]} too")
        return self

    @property
    def downsampling(self) -> int:
        """Pixels along a latent pixel."""
        return 1 << (len(self.channels) - 1)


class PretrainedVae(Section):
    """A finished autoencoder, which is checked and copied."""

    kind: Literal["pretrained"] = "pretrained"
    """Take a finished autoencoder."""
    path: str
    """The folder `autoencoder` of an earlier run, a folder as diffusers writes it, or an id on the Hugging Face hub."""
    revision: str | None = None
    """For an id on the hub, which needs it: the commit, 40 hexadecimal digits."""
    heldout_pictures: int = Field(64, ge=1)
    """Pictures of the source on which the PSNR is measured."""


VaeConfig = Annotated[TrainVae | PretrainedVae, Field(discriminator="kind")]
