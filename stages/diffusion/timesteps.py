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

    def quantile(self, u: Tensor, pixels: int) -> Tensor:
        """t / T below which a share u of the draws is, float64, of the shape of u: `sample` is this of uniform u."""
        del pixels
        return u

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

        return self._fraction(torch.randn(count, generator=generator, dtype=torch.float64), pixels)

    def quantile(self, u: Tensor, pixels: int) -> Tensor:
        """See `UniformTimesteps.quantile`."""
        import torch

        return self._fraction(torch.special.ndtri(u), pixels)

    def shift(self, pixels: int) -> float:
        """See `UniformTimesteps.shift`."""
        return (pixels / self.base_pixels) ** 0.5 if self.base_pixels else 1.0

    def _fraction(self, normal: Tensor, pixels: int) -> Tensor:
        """t / T from standard normal values."""
        moved: Tensor = shifted((self.mean + self.deviation * normal).sigmoid(), self.shift(pixels))
        return moved


def shifted(fraction: Any, shift: float) -> Any:
    """Values of t / T (a tensor or an array), moved by `shift` (Esser et al. 2024, eq. 23). 0 and 1 stay."""
    return shift * fraction / (1 + (shift - 1) * fraction)


def strata(num_draws: int, count: int, generator: torch.Generator) -> Tensor:
    """Uniform values in [0, 1) that cover it evenly, float64, (K, I) for K draws of each of I images.

    Each of the K I equal parts of [0, 1) has one value, and each of its K equal parts one draw of every image; which, is random.
    """
    import torch

    def random_KI() -> Tensor:
        return torch.rand(num_draws, count, generator=generator, dtype=torch.float64)

    part_KI = random_KI().argsort(0)  # of each draw, among the K
    inside_KI = random_KI().argsort(1)  # of each image, among the I in one of the K parts
    index_KI = part_KI * count + inside_KI.gather(0, part_KI)
    return (index_KI + random_KI()) / (num_draws * count)


TimestepDistribution = Annotated[UniformTimesteps | LogitNormalTimesteps, Field(discriminator="kind")]
