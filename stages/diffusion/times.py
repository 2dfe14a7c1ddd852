"""How the time of each training image is drawn. A frozen model with a `kind`, in the union below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stages.core.config import Section

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class UniformTimes(Section):
    """Every t alike, as in DDPM (the paper does not say)."""

    kind: Literal["uniform"] = "uniform"

    def draw(self, count: int, pixels: int, generator: torch.Generator) -> Tensor:
        """Shares of the way to noise, float64 in [0, 1), shape (count,)."""
        import torch

        del pixels
        return torch.rand(count, generator=generator, dtype=torch.float64)


class LogitNormalTimes(Section):
    """sigmoid of a normal draw, moved towards noise for large images (Esser et al. 2024, section 3.1 and eq. 23).

    base_pixels: latent pixels (h x w) of an image whose times stay as drawn; with n pixels the ratio of noise to signal grows
    sqrt(n / base_pixels) times. 0: no image is moved.
    """

    kind: Literal["logit-normal"] = "logit-normal"
    mean: float = 0.0
    deviation: float = Field(1.0, gt=0)
    base_pixels: int = Field(0, ge=0)

    def draw(self, count: int, pixels: int, generator: torch.Generator) -> Tensor:
        """As `UniformTimes.draw`."""
        import torch

        normal = torch.randn(count, generator=generator, dtype=torch.float64)
        share = (self.mean + self.deviation * normal).sigmoid()
        shift = (pixels / self.base_pixels) ** 0.5 if self.base_pixels else 1.0
        moved: Tensor = shift * share / (1 + (shift - 1) * share)
        return moved


Times = Annotated[UniformTimes | LogitNormalTimes, Field(discriminator="kind")]
