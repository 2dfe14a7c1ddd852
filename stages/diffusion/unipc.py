"""UniPC's update rule by diffusers: the only user of diffusers' schedulers. It gets estimates of x_0 and the noise levels."""

from __future__ import annotations

import numpy as np
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor


class Unipc:
    """One second-order solve for x_t = (1 - sigma) x_0 + sigma eps. sigmas: one for each step, falling; 0 follows the last."""

    def __init__(self, sigmas: list[float]) -> None:
        self._rule = UniPCMultistepScheduler(prediction_type="sample", solver_order=2, use_flow_sigmas=True)
        self._rule.set_timesteps(sigmas=np.array(sigmas))
        self._rule.set_begin_index(0)
        self._timesteps = iter(self._rule.timesteps)

    def step(self, x0: Tensor, x: Tensor) -> Tensor:
        """The next x from this one and its estimate of x_0."""
        x_next: Tensor = self._rule.step(x0, next(self._timesteps), x, return_dict=False)[0]
        return x_next
