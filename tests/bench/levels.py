"""How well a checkpoint predicts images at given signal-to-noise ratios, whatever its schedule, target and times.

x_t of any schedule is, but for its scale, x_0 plus noise of a level, so that the squared error of the noise can be compared at
equal SNR = alpha^2 / sigma^2 between objectives whose own losses cannot. The same images and noise for every checkpoint.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.checkpoint import Checkpoint
from stages.diffusion.config import DiffusionConfig
from stages.diffusion.process import Diffusion
from stages.generation.loading import load_model
from stages.model.config import ModelConfig
from stages.train_model.data import Data
from stages.train_model.objective import loss_sums

LEVELS = (4.0, 1.0, 0.25, 0.06, 0.015, 0.004)


class OneLevel(Diffusion):
    """The forward process of a checkpoint, with every image at the t whose SNR is closest to `snr` by its logarithm."""

    def __init__(self, config: DiffusionConfig, snr: float) -> None:
        super().__init__(config.schedule, config.target, config.times)
        log_snr = 2 * (self.alpha[1:-1].log() - self.sigma[1:-1].log())
        self.t = 1 + int((log_snr - np.log(snr)).abs().argmin())

    def sample_timesteps(self, limits_I: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
        del pixels, generator  # no random number is taken, so that the noise is the same for every schedule
        return torch.full_like(limits_I, self.t)


@torch.no_grad()
def noise_errors(checkpoint: Path, sequences: Path, rows: int = 25, draws: int = 1) -> dict[float, float]:
    """By SNR: the mean squared error of the noise, over the images of the first held-out rows of the Sequences that do not begin
    their document, as not every objective has a loss for those. draws: of the noise of each image."""
    content = Checkpoint.open(checkpoint).content
    config = DiffusionConfig.model_validate(content.diffusion)
    config = config.model_copy(update={"noise_limit": 0, "limited_images": "first"})
    data = Data(sequences, config, ModelConfig.model_validate(content.model))
    model = load_model(checkpoint, "cpu", "fp32").model
    found = {}
    for snr in LEVELS:
        maker = data.heldout
        maker.images = replace(maker.images, diffusion=OneLevel(config, snr))
        total, count = 0.0, 0
        for row in range(min(rows, data.content.heldout_rows)):
            for draw in range(draws):
                batch = maker.make(np.array([row]), [("heldout", row)], draw).to(torch.device("cpu"), "dense")
                errors = loss_sums(model, batch).eps_mse
                total, count = total + sum(float(each.sum()) for each in errors), count + sum(map(len, errors))
        found[snr] = total / count
    return found
