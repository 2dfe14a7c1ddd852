"""The forward process q(x_t | x_0) and its inversions, with the noise schedule as tables.

Shapes: I images, C channels, h x w latent pixels. t: int64, shape (I,), from 0 (clean) to T (noise).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stages.diffusion.schedules import Schedule
from stages.diffusion.targets import NoiseTarget, Target
from stages.diffusion.timesteps import Times, UniformTimes, shifted
from stages.diffusion.weighting import Weighting


class Diffusion:
    """x_t = a x_0 + b eps; a = sqrt(alpha_bar_t), b = sqrt(1 - alpha_bar_t) with the paper's schedule (eq. 2)."""

    def __init__(self, schedule: Schedule, target: Target | None = None, times: Times | None = None) -> None:
        self.target = target or NoiseTarget()
        self.times = times or UniformTimes()
        self.num_steps = schedule.steps
        self.signal, self.noise = (torch.from_numpy(level) for level in schedule.levels())  # float64: samplers divide

    def add_noise(self, clean_IChw: Tensor, noise_IChw: Tensor, t_I: Tensor) -> Tensor:
        """x_t for one t per image (paper, eq. 2). t = 0 returns the clean latents."""
        a, b = self._levels(t_I)
        return a * clean_IChw + b * noise_IChw

    def targets(self, clean_IChw: Tensor, noise_IChw: Tensor, t_I: Tensor) -> Tensor:
        """What the model should give for the x_t of `add_noise`."""
        return self.target.of(clean_IChw, noise_IChw, *self._levels(t_I))

    def to_clean(self, output_IChw: Tensor, x_t: Tensor, t: int) -> Tensor:
        """The x_0 that the model's output for x_t stands for."""
        return self.target.to_clean(output_IChw, x_t, float(self.signal[t]), float(self.noise[t]))

    def noise_errors(self, t_I: Tensor) -> Tensor:
        """Squared error of the noise for a squared error of 1 of the output, float32, shape (I,)."""
        return self.target.noise_error(self.signal[t_I], self.noise[t_I]).float()

    def loss_weights(self, t_I: Tensor, weighting: Weighting) -> Tensor:
        """The weight of each image's error by its t, float32, shape (I,)."""
        return weighting.of(self.signal[t_I], self.noise[t_I], self.target).float()

    def draw_times(self, limits_I: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
        """One t per image in 1..limit (limit: T, or the noise limit of image-first documents, whose range is shorter, not
        clipped). pixels: h x w of these latents."""
        share = self.times.draw(len(limits_I), pixels, generator)
        return 1 + (share * limits_I).long().clamp(max=limits_I - 1)

    def respaced(self, num_steps: int, pixels: int, strength: float = 1.0) -> list[int]:
        """The times of a sampler of at most `num_steps` steps from t = strength * T down, and 0 behind them. They are evenly
        spaced, or moved as the times of training are for an image of so many latent pixels.

        strength: of T, from 0 (no step at all) to 1; a part of the way takes that part of the steps, rounded up.
        """
        steps = min(num_steps, self.num_steps)
        share = shifted(np.linspace(1, 0, steps + 1), self.times.shift(pixels))
        times = np.unique(np.round(share * self.num_steps).astype(int))[::-1]  # a shift can round two to one
        start = round(strength * self.num_steps)
        return [start, *(int(t) for t in times if t < start)]

    def _levels(self, t_I: Tensor) -> tuple[Tensor, Tensor]:
        a, b = (level[t_I].float()[:, None, None, None] for level in (self.signal, self.noise))
        return a, b


def image_errors(predicted_IChw: Tensor, target_IChw: Tensor) -> Tensor:
    """Mean squared error over each image's latent values, float32, shape (I,) (paper, eq. 3; mean: stages/README.md)."""
    error = (predicted_IChw.float() - target_IChw.float()).square()
    return error.flatten(1).mean(1)
