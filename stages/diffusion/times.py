"""How the time of each training image is drawn, and how samplers space theirs. A frozen model with a `kind`, in the union
below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from stages.core.config import Section

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class UniformTimes(Section):
    """Every t alike, as in DDPM (the paper does not say)."""

    kind: Literal["uniform"] = "uniform"
    """Every time t is equally likely."""

    def draw(self, count: int, pixels: int, generator: torch.Generator) -> Tensor:
        """Shares of the way to noise, float64 in [0, 1), shape (count,)."""
        import torch

        del pixels
        return torch.rand(count, generator=generator, dtype=torch.float64)

    def shift(self, pixels: int) -> float:
        """How many times the ratio of noise to signal grows for an image of so many latent pixels."""
        del pixels
        return 1.0


class LogitNormalTimes(Section):
    """sigmoid of a normal draw, moved towards noise for large images (Esser et al. 2024, section 3.1 and eq. 23)."""

    kind: Literal["logit-normal"] = "logit-normal"
    """Times in the middle are more likely than those near the image or the noise."""
    mean: float = 0.0
    """Mean of the normal draw, before the sigmoid. Above 0: more noise."""
    deviation: float = Field(1.0, gt=0)
    """Standard deviation of the normal draw, before the sigmoid."""
    base_pixels: int = Field(0, ge=0)
    """Latent pixels (height times width) of an image whose times stay as drawn. For an image of n latent pixels the ratio of
    noise to signal is multiplied by sqrt(n / base_pixels). 0: no image is moved."""

    def draw(self, count: int, pixels: int, generator: torch.Generator) -> Tensor:
        """As `UniformTimes.draw`."""
        import torch

        normal = torch.randn(count, generator=generator, dtype=torch.float64)
        share = (self.mean + self.deviation * normal).sigmoid()
        moved: Tensor = shifted(share, self.shift(pixels))
        return moved

    def shift(self, pixels: int) -> float:
        """As `UniformTimes.shift`."""
        return (pixels / self.base_pixels) ** 0.5 if self.base_pixels else 1.0


def shifted(share: Any, shift: float) -> Any:
    """Shares of the way to noise (a tensor or an array), moved by `shift` (Esser et al. 2024, eq. 23). 0 and 1 stay."""
    return shift * share / (1 + (shift - 1) * share)


Times = Annotated[UniformTimes | LogitNormalTimes, Field(discriminator="kind")]
