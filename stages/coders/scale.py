"""Raw latents <-> latents of unit variance, by the per-channel statistics measured over the shards."""

from __future__ import annotations

import torch
from torch import Tensor


class LatentScale:
    """(x - mean_c) / std_c and back, for tensors (..., C, h, w). With a KL weight of 1e-6 nothing else fixes the scale."""

    def __init__(self, channel_mean: list[float], channel_std: list[float], device: torch.device | str = "cpu") -> None:
        self.mean = torch.tensor(channel_mean, dtype=torch.float32, device=device)[:, None, None]
        self.std = torch.tensor(channel_std, dtype=torch.float32, device=device)[:, None, None]

    def normalise(self, raw: Tensor) -> Tensor:
        return (raw.float() - self.mean) / self.std

    def restore(self, normal: Tensor) -> Tensor:
        return normal.float() * self.std + self.mean

    def sample_posterior(self, mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
        """A draw from the autoencoder's posterior N(mean, std^2), normalised: what training sees."""
        return self.normalise(mean.float() + std.float() * noise)
