"""Drawing that begins from a picture: variations (partial noising) and a known part that stays (in- and outpainting).

Over any sampler's walk: where a picture is known, its own latent is given to the walk as the estimate of x_0. A sampler then
takes that part along its path by its own rule, at each step at that step's noise level, which is what noising it anew and
pasting it would give, but with the sampler's noise instead of other noise at every step.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stages.diffusion.process import Diffusion
from stages.diffusion.samplers import DrawNoise, Sampler, Walk


def edited(
    sampler: Sampler,
    clean_IChw: Tensor,
    change: Tensor | None,
    strength: float,
    noise_IChw: Tensor,
    diffusion: Diffusion,
    draw_noise: DrawNoise,
    limit: float,
) -> Walk:
    """A walk that begins with `clean` noised to t = strength * T and ends with it outside of `change`.

    change: bool, broadcast to (I, C, h, w); None: everywhere. Strength 1 and change everywhere is the plain walk from the
    noise, bit for bit; strength 0, or change nowhere, returns `clean`.
    """
    start = round(strength * diffusion.num_steps)
    times = torch.full((len(clean_IChw),), start, device=diffusion.signal.device)
    begun = diffusion.add_noise(clean_IChw, noise_IChw, times)
    free = (
        noise_IChw if start == diffusion.num_steps else begun
    )  # at T nothing of the picture may show, even if a is not 0
    x = free if change is None else torch.where(change, free, begun)
    walk = sampler.walk(x, diffusion, draw_noise, limit, strength)
    if change is None:
        return (yield from walk)
    try:
        question = next(walk)
        while True:
            question = walk.send(torch.where(change, (yield question), clean_IChw))
    except StopIteration as end:
        return torch.where(change, end.value, clean_IChw)


def cells_to_change(mask_HW: np.ndarray, downsampling: int) -> Tensor:
    """Latent pixels to draw anew, bool (h, w), from a mask of the picture: those of which any pixel changes. A cell that held
    on to what is under the mask would show it."""
    height, width = mask_HW.shape
    assert height % downsampling == 0
    assert width % downsampling == 0
    cells = mask_HW.reshape(height // downsampling, downsampling, width // downsampling, downsampling)
    return torch.from_numpy(cells.any(axis=(1, 3)))


def pasted(drawn_HWc: np.ndarray, original_HWc: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """The drawn picture, or several behind one another, with the original's own pixels wherever the mask does not say to
    change them: an autoencoder does not give them back exactly."""
    return np.where(mask_HW[..., None], drawn_HWc, original_HWc)
