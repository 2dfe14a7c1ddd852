"""The forward process q(x_t | x_0) and its inversions, with the noise schedule as float32 tables on a device.

Shapes: I images, C channels, h x w latent pixels. t: int64, shape (I,), from 0 (clean) to T (noise).
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.diffusion.schedules import Schedule
from stages.diffusion.targets import NoiseTarget, Target
from stages.diffusion.weighting import Weighting


class Diffusion:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (paper, eq. 2)."""

    def __init__(self, schedule: Schedule, target: Target | None = None, device: torch.device | str = "cpu") -> None:
        self.target = target or NoiseTarget()
        self.num_steps = schedule.steps
        self.alpha_bar = torch.from_numpy(schedule.alpha_bar()).to(device)  # float64: samplers divide its entries
        self._signal = self.alpha_bar.sqrt().float()
        self._noise = (1 - self.alpha_bar).sqrt().float()

    def add_noise(self, clean_IChw: Tensor, noise_IChw: Tensor, t_I: Tensor) -> Tensor:
        """x_t for one t per image (paper, eq. 2). t = 0 returns the clean latents."""
        signal, noise = self._signal[t_I], self._noise[t_I]
        return signal[:, None, None, None] * clean_IChw + noise[:, None, None, None] * noise_IChw

    def targets(self, clean_IChw: Tensor, noise_IChw: Tensor, t_I: Tensor) -> Tensor:
        """What the model should give for the x_t of `add_noise`."""
        signal, noise = self._signal[t_I][:, None, None, None], self._noise[t_I][:, None, None, None]
        return self.target.of(clean_IChw, noise_IChw, signal, noise)

    def to_noise(self, output_IChw: Tensor, x_t: Tensor, t: int) -> Tensor:
        """The noise that the model's output for x_t stands for."""
        return self.target.to_noise(output_IChw, x_t, float(self._signal[t]), float(self._noise[t]))

    def noise_errors(self, t_I: Tensor) -> Tensor:
        """Squared error of the noise for a squared error of 1 of the output, float32, shape (I,)."""
        return self.target.noise_error(self.alpha_bar[t_I]).float()

    def loss_weights(self, t_I: Tensor, weighting: Weighting) -> Tensor:
        """The weight of each image's error by its t, float32, shape (I,)."""
        return weighting.of(self.alpha_bar[t_I], self.target).float()

    def draw_times(self, limits_I: Tensor, generator: torch.Generator) -> Tensor:
        """One t per image, uniform over 1..limit (limit: T, or the noise limit of image-first documents)."""
        uniform = torch.rand(limits_I.shape, generator=generator, dtype=torch.float64)
        return 1 + (uniform * limits_I).long().clamp(max=limits_I - 1)


def image_errors(predicted_IChw: Tensor, target_IChw: Tensor) -> Tensor:
    """Mean squared error over each image's latent values, float32, shape (I,) (paper, eq. 3; mean: stages/README.md)."""
    error = (predicted_IChw.float() - target_IChw.float()).square()
    return error.flatten(1).mean(1)
