"""The forward process q(x_t | x_0) and its inversions, with the noise schedule as tables.

Shapes: I images, C channels, h x w latent pixels. t: int64, shape (I,), from 0 (clean) to T (noise). x0: clean latents. eps:
standard normal noise.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stages.diffusion.schedules import Schedule
from stages.diffusion.targets import NoiseTarget, Target
from stages.diffusion.timesteps import TimestepDistribution, UniformTimesteps, shifted
from stages.diffusion.weighting import Weighting


class Diffusion:
    """x_t = alpha x_0 + sigma eps; with the paper's schedule alpha = sqrt(alpha_bar_t), sigma = sqrt(1 - alpha_bar_t) (eq. 2).

    alpha, sigma: (T + 1,), float64, at t = 0..T. num_steps: T.
    """

    def __init__(
        self,
        schedule: Schedule,
        target: Target | None = None,
        timestep_distribution: TimestepDistribution | None = None,
    ) -> None:
        """target: what the model predicts (None: the noise). timestep_distribution: of t in training (None: uniform)."""
        self.target = target or NoiseTarget()
        self.timestep_distribution = timestep_distribution or UniformTimesteps()
        self.num_steps = schedule.steps
        self.alpha, self.sigma = (
            torch.from_numpy(table) for table in schedule.alpha_sigma()
        )  # float64: samplers divide

    def add_noise(self, x0_IChw: Tensor, eps_IChw: Tensor, t_I: Tensor) -> Tensor:
        """x_t for one t per image (paper, eq. 2). t = 0 returns the clean latents."""
        alpha, sigma = self._alpha_sigma(t_I)
        return alpha * x0_IChw + sigma * eps_IChw

    def targets(self, x0_IChw: Tensor, eps_IChw: Tensor, t_I: Tensor) -> Tensor:
        """What the model should predict for the x_t of `add_noise`, (I, C, h, w)."""
        return self.target.compute(x0_IChw, eps_IChw, *self._alpha_sigma(t_I))

    def to_x0(self, output_IChw: Tensor, x_t: Tensor, t: int) -> Tensor:
        """The estimate of x_0, (I, C, h, w), from the model's output for x_t."""
        return self.target.to_x0(output_IChw, x_t, float(self.alpha[t]), float(self.sigma[t]))

    def eps_mse_factor(self, t_I: Tensor) -> Tensor:
        """Factor from the squared error of the output to that of eps, float32, shape (I,)."""
        return self.target.eps_mse_factor(self.alpha[t_I], self.sigma[t_I]).float()

    def loss_weights(self, t_I: Tensor, weighting: Weighting) -> Tensor:
        """The weight of each image's squared error by its t, float32, shape (I,)."""
        return weighting.weight(self.alpha[t_I], self.sigma[t_I], self.target).float()

    def sample_timesteps(self, limits_I: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
        """One random t per image in 1..limit, int64, shape (I,). limit: T, or the noise limit of an image that begins its
        document; its distribution is scaled to the shorter range, not clipped. pixels: h x w of these latents."""
        return _timesteps(self.timestep_distribution.sample(len(limits_I), pixels, generator), limits_I)

    def timesteps_at(self, u_KI: Tensor, limits_I: Tensor, pixels: int) -> Tensor:
        """The t of `sample_timesteps` below which a share u of its draws is, int64, shape (K, I)."""
        return _timesteps(self.timestep_distribution.quantile(u_KI, pixels), limits_I)

    def sampling_timesteps(self, num_steps: int, pixels: int, strength: float = 1.0) -> list[int]:
        """The timesteps of a sampler of at most `num_steps` steps from t = strength * T down, and 0 after the last.

        They are evenly spaced, or shifted as those of training are for an image of `pixels` latent pixels. strength: from 0
        (no step) to 1; a start in between takes the steps below it, so that fraction of them, rounded up.
        """
        steps = min(num_steps, self.num_steps)
        fraction = shifted(np.linspace(1, 0, steps + 1), self.timestep_distribution.shift(pixels))
        timesteps = np.unique(np.round(fraction * self.num_steps).astype(int))[::-1]  # a shift can round two to one
        start = round(strength * self.num_steps)
        return [start, *(int(t) for t in timesteps if t < start)]

    def _alpha_sigma(self, t_I: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = (table[t_I].float()[:, None, None, None] for table in (self.alpha, self.sigma))
        return alpha, sigma


def _timesteps(fraction: Tensor, limits_I: Tensor) -> Tensor:
    return 1 + (fraction * limits_I).long().clamp(max=limits_I - 1)


def image_errors(predicted_IChw: Tensor, target_IChw: Tensor) -> Tensor:
    """Mean squared error over each image's latent values, float32, shape (I,) (paper, eq. 3; mean: docs/paper.md)."""
    error = (predicted_IChw.float() - target_IChw.float()).square()
    return error.flatten(1).mean(1)
