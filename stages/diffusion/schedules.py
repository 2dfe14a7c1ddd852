"""Noise schedules: alpha(t) and sigma(t) of x_t = alpha x_0 + sigma eps, from t = 0 (clean) to t = T (noise).

A schedule is a frozen pydantic model with a `kind`; a new one is a class here and a name in the union. It has `steps`, T, and
`alpha_sigma`: alpha falls from 1 at t = 0, and sigma rises from 0. From t = 1 on sigma is above 0, because samplers divide by it.
With target "noise", x_0 is divided by alpha, so that alpha must stay above 0 up to t = T.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from stages.core.config import Section

FloatArray = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class CosineSchedule(Section):
    """The cosine schedule in its exact form (Nichol and Dhariwal 2021, eq. 17; paper, section 2.2).

    f(t) = cos^2((t/T + s) / (1 + s) * pi/2); alpha_bar(t) = f(t) / f(0), each beta(t) = 1 - alpha_bar(t) /
    alpha_bar(t-1) limited to `max_beta`.
    """

    kind: Literal["cosine"] = "cosine"
    """The cosine schedule of Nichol and Dhariwal (paper, section 2.2)."""
    steps: int = Field(1000, ge=1)
    """Number T of noise levels; t runs from 0 (clean) to T (noise) (paper, section 4.1: 1000)."""
    offset: float = Field(0.008, ge=0)
    """The small s that keeps the first steps from being too small (Nichol and Dhariwal 2021, section 3.2)."""
    max_beta: float = Field(0.999, gt=0, lt=1)
    """Upper limit of the noise that one step adds; without it the last step would leave nothing of the image."""

    def alpha_bar(self) -> FloatArray:
        """alpha_bar at t = 0..T, shape (T + 1,), float64: 1 at t = 0, falling to almost 0."""
        time = np.arange(self.steps + 1) / self.steps
        curve = np.cos((time + self.offset) / (1 + self.offset) * np.pi / 2) ** 2
        betas = np.minimum(1 - curve[1:] / curve[:-1], self.max_beta)
        return np.concatenate([[1.0], np.cumprod(1 - betas)])

    def alpha_sigma(self) -> tuple[FloatArray, FloatArray]:
        """alpha and sigma at t = 0..T, each (T + 1,), float64: sqrt(alpha_bar) and sqrt(1 - alpha_bar) (paper, eq. 2)."""
        alpha_bar = self.alpha_bar()
        return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


class FlowSchedule(Section):
    """Straight lines from the image to the noise: alpha = 1 - t/T, sigma = t/T (rectified flow, Liu et al. 2023)."""

    kind: Literal["flow"] = "flow"
    """Rectified flow: straight lines from the image to the noise."""
    steps: int = Field(1000, ge=1)
    """Number T of noise levels; t runs from 0 (clean) to T (noise)."""

    def alpha_sigma(self) -> tuple[FloatArray, FloatArray]:
        """alpha and sigma at t = 0..T, each (T + 1,), float64."""
        time = np.arange(self.steps + 1) / self.steps
        return 1 - time, time


Schedule = Annotated[CosineSchedule | FlowSchedule, Field(discriminator="kind")]
