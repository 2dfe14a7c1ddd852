"""The recipe section [vae]: train a small autoencoder on the recipe's own pictures, or take a finished one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.core.config import Section, neutral

VERSION = 1  # of the stage; raised where the same settings give other bytes


class TrainVae(Section):
    """A diffusers AutoencoderKL trained from scratch (paper, appendix A: L1 + LPIPS + 0.5 GAN + 1e-6 KL).

    channels: one entry per resolution; the picture is halved between entries, so three entries mean a factor of 4.
    max_pictures: pictures kept in memory for training. heldout_pictures: pictures set aside for PSNR.
    lpips: folder with LPIPS weights converted to safetensors (see README), empty: no perceptual loss.
    rmse_weight: of each picture's root mean square error, in addition to L1. L1 alone predicts the median, so that small things
    on flat backgrounds appear late: on shapes 22 dB after 400 steps, with this term 27 dB (measured). The paper has no such term.
    gan_start_step: the patch discriminator joins here (paper: 50,000); gan_weight 0 leaves it out.
    """

    kind: Literal["train"] = "train"
    channels: tuple[int, ...] = Field((32, 64, 128), min_length=1)
    layers_per_block: int = Field(1, ge=1)
    latent_channels: int = Field(4, ge=1)
    norm_groups: int = Field(8, ge=1)
    steps: int = Field(2000, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    warmup_steps: int = Field(100, ge=0)
    l1_weight: float = Field(1.0, ge=0)
    rmse_weight: float = Field(0.0, ge=0)
    kl_weight: float = Field(1e-6, ge=0)
    lpips_weight: float = Field(0.0, ge=0)
    lpips_weights: Path | None = None
    gan_weight: float = Field(0.0, ge=0)
    gan_start_step: int = Field(50_000, ge=0)
    gan_learning_rate: float = Field(2e-4, gt=0)
    ema_decay: float = Field(0.995, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    max_pictures: int = Field(20_000, ge=1)
    heldout_pictures: int = Field(64, ge=1)
    save_every: int = neutral(200, ge=1)

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
    """A finished autoencoder: the artifact of an earlier run, a folder as diffusers writes it, or a hub id with the 40-hex
    commit as revision."""

    kind: Literal["pretrained"] = "pretrained"
    path: str
    revision: str | None = None
    heldout_pictures: int = Field(64, ge=1)


VaeConfig = Annotated[TrainVae | PretrainedVae, Field(discriminator="kind")]
