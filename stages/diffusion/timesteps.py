"""The distribution of the training timesteps t, which also spaces the steps of samplers. A frozen pydantic model with a `kind`,
in the union below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from stages.core.config import Section

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class UniformTimesteps(Section):
    """Every t is equally likely, as in DDPM (the paper does not say)."""

    kind: Literal["uniform"] = "uniform"
    """Every time t is equally likely."""

    def sample(self, count: int, pixels: int, generator: torch.Generator) -> Tensor:
        """`count` random values of t / T, float64 in [0, 1), shape (count,). pixels: h x w of the latents."""
        import torch

        del pixels
        return torch.rand(count, generator=generator, dtype=torch.float64)

    def shift(self, pixels: int) -> float:
        """The factor of sigma / alpha for an image of `pixels` latent pixels."""
        del pixels
        return 1.0


class LogitNormalTimesteps(Section):
    """sigmoid of a normal draw, moved towards noise for large images (Esser et al. 2024, section 3.1 and eq. 23)."""

    kind: Literal["logit-normal"] = "logit-normal"
    """Times in the middle are more likely than those near the image or the noise."""
    mean: float = 0.0
    """Mean of the normal draw, before the sigmoid. Above 0: more noise."""
    deviation: float = Field(1.0, gt=0)
    """Standard deviation of the normal draw, before the sigmoid."""
    base_pixels: int = Field(0, ge=0)
    """Latent pixels (height times width) of an image whose times stay as drawn. For an image of n latent pixels sigma / alpha is
    multiplied by sqrt(n / base_pixels). 0: no image is moved."""

    def sample(self, count: int, pixels: int, generator: torch.Generator) -> Tensor:
        """See `UniformTimesteps.sample`."""
        import torch

        normal = torch.randn(count, generator=generator, dtype=torch.float64)
        fraction = (self.mean + self.deviation * normal).sigmoid()
        moved: Tensor = shifted(fraction, self.shift(pixels))
        return moved

    def shift(self, pixels: int) -> float:
        """See `UniformTimesteps.shift`."""
        return (pixels / self.base_pixels) ** 0.5 if self.base_pixels else 1.0


def shifted(fraction: Any, shift: float) -> Any:
    """Values of t / T (a tensor or an array), moved by `shift` (Esser et al. 2024, eq. 23). 0 and 1 stay."""
    return shift * fraction / (1 + (shift - 1) * fraction)


TimestepDistribution = Annotated[UniformTimesteps | LogitNormalTimesteps, Field(discriminator="kind")]
