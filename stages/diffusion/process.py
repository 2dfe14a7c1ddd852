"""The forward process q(x_t | x_0) and its inversions, with the noise schedule as float32 tables on a device.

Shapes: I images, C channels, h x w latent pixels. t: int64, shape (I,), from 0 (clean) to T (noise).
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.diffusion.schedules import Schedule
from stages.diffusion.weighting import Weighting


class Diffusion:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (paper, eq. 2)."""

    def __init__(self, schedule: Schedule, device: torch.device | str = "cpu") -> None:
        self.num_steps = schedule.steps
        self.alpha_bar = torch.from_numpy(schedule.alpha_bar()).to(device)  # float64: samplers divide its entries
        self._signal = self.alpha_bar.sqrt().float()
        self._noise = (1 - self.alpha_bar).sqrt().float()

    def add_noise(self, clean_IChw: Tensor, noise_IChw: Tensor, t_I: Tensor) -> Tensor:
        """x_t for one t per image (paper, eq. 2). t = 0 returns the clean latents."""
        signal, noise = self._signal[t_I], self._noise[t_I]
        return signal[:, None, None, None] * clean_IChw + noise[:, None, None, None] * noise_IChw

    def loss_weights(self, t_I: Tensor, weighting: Weighting) -> Tensor:
        """The weight of each image's error by its t, float32, shape (I,)."""
        return weighting.of(self.alpha_bar[t_I]).float()

    def draw_times(self, limits_I: Tensor, generator: torch.Generator) -> Tensor:
        """One t per image, uniform over 1..limit (limit: T, or the noise limit of image-first documents)."""
        uniform = torch.rand(limits_I.shape, generator=generator, dtype=torch.float64)
        return 1 + (uniform * limits_I).long().clamp(max=limits_I - 1)


def image_errors(predicted_IChw: Tensor, noise_IChw: Tensor) -> Tensor:
    """Mean squared error over each image's latent values, float32, shape (I,) (paper, eq. 3; mean: stages/README.md)."""
    error = (predicted_IChw.float() - noise_IChw.float()).square()
    return error.flatten(1).mean(1)
