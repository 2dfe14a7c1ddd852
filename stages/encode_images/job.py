"""What every shard of an encoding has in common: settings, the autoencoder, and where the arrays of each grid are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stages.artifacts.latents import ARRAYS
from stages.coders.config import Images
from stages.coders.vae import Vae, load_vae
from stages.encode_images.config import EncodeConfig


@dataclass(frozen=True)
class Job:
    """What every shard of a run has in common. model: the autoencoder's folder; folder: of the artifact that grows."""

    model: Path
    images: Images
    encode: EncodeConfig
    folder: Path
    latent_channels: int
    downsampling: int
    device: str

    def load(self) -> Vae:
        return load_vae(self.model, device=self.device, precision=self.encode.precision, compiled=self.encode.compile)

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width in latent pixels of each base grid; with mirror, as many grids of mirrored pictures follow."""
        return [(height // self.downsampling, width // self.downsampling) for height, width in self.images.shapes()]

    @property
    def num_grids(self) -> int:
        return len(self.sizes()) * (2 if self.encode.mirror else 1)

    def array(self, grid: int) -> Path:
        """Where the rows of a grid (base or mirrored) lie."""
        sizes = self.sizes()
        height, width = sizes[grid % len(sizes)]
        return self.folder / ARRAYS / f"{height}x{width}{'-mirrored' if grid >= len(sizes) else ''}"

    def row_shape(self, grid: int) -> tuple[int, int, int, int]:
        sizes = self.sizes()
        return (2, self.latent_channels, *sizes[grid % len(sizes)])
