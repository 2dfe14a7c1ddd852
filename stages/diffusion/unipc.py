"""UniPC's update rule by diffusers: the home of diffusers' schedulers. It gets estimates of x_0 and the levels of noise."""

from __future__ import annotations

import numpy as np
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor


class Unipc:
    """One solve of second order, for x_t = (1 - b) x_0 + b eps. levels: b at each step, falling; behind them comes 0."""

    def __init__(self, levels: list[float]) -> None:
        self._rule = UniPCMultistepScheduler(prediction_type="sample", solver_order=2, use_flow_sigmas=True)
        self._rule.set_timesteps(sigmas=np.array(levels))
        self._rule.set_begin_index(0)
        self._times = iter(self._rule.timesteps)

    def step(self, clean: Tensor, x: Tensor) -> Tensor:
        """The next x from this one and its estimate of x_0."""
        x_next: Tensor = self._rule.step(clean, next(self._times), x, return_dict=False)[0]
        return x_next
