"""The optional parts of the autoencoder's loss: LPIPS on AlexNet features, and a patch discriminator."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.artifacts.checkpoint import read_tensors
from stages.core.errors import ExitCode, TfcliError

# Zhang et al. 2018: inputs in [-1, 1] are shifted and scaled to ImageNet's statistics.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# (out channels, kernel, stride, padding) of AlexNet's convolutions; a 3 x 3 max pool of stride 2 precedes the second and third.
_LAYERS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))


class Perceptual(nn.Module):
    """LPIPS (Zhang et al. 2018): weighted distance of unit-normed features, mean over positions, sum over layers."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *(layer[0] for layer in _LAYERS)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, out, kernel, stride, padding)
            for before, (out, kernel, stride, padding) in zip(widths[:-1], _LAYERS, strict=True)
        )
        self.heads = nn.ParameterList(nn.Parameter(torch.zeros(layer[0])) for layer in _LAYERS)
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None], persistent=False)

    @classmethod
    def load(cls, path: Path | None, device: torch.device) -> Perceptual:
        """From the safetensors file that `lpips_weights.convert` writes."""
        if path is None:
            fix = "set vae.lpips_weights to the converted weights (docs/training.md), or vae.lpips_weight = 0"
            raise TfcliError(
                "vae.lpips_weight needs weights", why="vae.lpips_weights is not set", fix=fix, code=ExitCode.USAGE
            )
        network = cls()
        try:
            network.load_state_dict(read_tensors(path), strict=True)
        except RuntimeError as error:
            raise TfcliError(
                f"{path} does not hold LPIPS weights", why=str(error)[:200], code=ExitCode.ARTIFACT
            ) from error
        return network.to(device).eval().requires_grad_(False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Mean distance of two batches (N, 3, H, W) in [-1, 1]; H and W at least 35."""
        total = first.new_zeros(())
        pairs = zip(self._features(first), self._features(second), self.heads, strict=True)
        for one, other, head in pairs:
            difference = (F.normalize(one, dim=1, eps=1e-10) - F.normalize(other, dim=1, eps=1e-10)).square()
            total = total + (difference * head[:, None, None]).sum(1).mean()
        return total

    def _features(self, pictures: Tensor) -> list[Tensor]:
        x = (pictures - self.shift) / self.scale
        features = []
        for number, convolution in enumerate(self.convolutions):
            if number in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(convolution(x))
            features.append(x)
        return features


class Discriminator(nn.Module):
    """A patch discriminator (Isola et al. 2017) of three halvings: a logit for each patch of the picture."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1),
            nn.GroupNorm(8, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 3, 1, 1),
        )

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.layers(pictures)
        return logits


def adversarial_loss(discriminator: Discriminator, reconstruction: Tensor) -> Tensor:
    """The term of the autoencoder's loss that is small where the discriminator takes its pictures for real ones."""
    loss: Tensor = -discriminator(reconstruction).mean()
    return loss


def discriminator_loss(discriminator: Discriminator, real: Tensor, reconstruction: Tensor) -> Tensor:
    """Hinge loss (VQGAN, Esser et al. 2021)."""
    return 0.5 * (F.relu(1 - discriminator(real)).mean() + F.relu(1 + discriminator(reconstruction)).mean())
