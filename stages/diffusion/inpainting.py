"""Sampling that starts from a picture: variations (partial noising) and a known part that is kept (in- and outpainting).

It wraps any sampler's steps: where the picture is known, its own latent is sent as the estimate of x_0. The sampler then moves
that part along its path by its own rule, to each step's noise level. That equals noising the known latent and pasting it in at
every step, with the sampler's noise instead of independent noise at each step.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from stages.diffusion.process import Diffusion
from stages.diffusion.samplers import DenoisingSteps, DrawNoise, Sampler


def edit_steps(
    sampler: Sampler,
    x0_IChw: Tensor,
    change: Tensor | None,
    strength: float,
    eps_IChw: Tensor,
    diffusion: Diffusion,
    draw_noise: DrawNoise,
    limit: float,
) -> DenoisingSteps:
    """Denoising steps that start with `x0` noised to t = strength * T, and that end with `x0` outside of `change`.

    Args:
        sampler: whose steps are taken.
        x0_IChw: the clean latents that are edited, (I, C, h, w).
        change: True where latents may change, bool, broadcast to (I, C, h, w). None: everywhere.
        strength: share of the noise levels. Strength 1 with change everywhere is the sampler alone from the noise, bit for bit;
            strength 0, or change nowhere, returns `x0`.
        eps_IChw: standard normal noise for the start.
        diffusion: the noise schedule.
        draw_noise: see `samplers.sample`.
        limit: see `samplers.sample`.
    """
    start = round(strength * diffusion.num_steps)
    t_I = torch.full((len(x0_IChw),), start, device=diffusion.alpha.device)
    noised = diffusion.add_noise(x0_IChw, eps_IChw, t_I)
    # at T nothing of the picture may remain, even where alpha is not 0
    free = eps_IChw if start == diffusion.num_steps else noised
    x = free if change is None else torch.where(change, free, noised)
    steps = sampler.denoising_steps(x, diffusion, draw_noise, limit, strength)
    if change is None:
        return (yield from steps)
    try:
        x_t_and_t = next(steps)
        while True:
            x_t_and_t = steps.send(torch.where(change, (yield x_t_and_t), x0_IChw))
    except StopIteration as end:
        return torch.where(change, end.value, x0_IChw)


def cells_to_change(mask_HW: np.ndarray, downsampling: int) -> Tensor:
    """The latent pixels that may change, bool (h, w), for a mask of the picture's pixels: those with any pixel in the mask. A
    latent pixel that was kept would show what is under the mask."""
    height, width = mask_HW.shape
    assert height % downsampling == 0
    assert width % downsampling == 0
    cells = mask_HW.reshape(height // downsampling, downsampling, width // downsampling, downsampling)
    return torch.from_numpy(cells.any(axis=(1, 3)))


def pasted(generated_HWc: np.ndarray, original_HWc: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """The generated picture, (..., height, width, c), with the original's own pixels outside of the mask, since an autoencoder
    does not reproduce them exactly."""
    return np.where(mask_HW[..., None], generated_HWc, original_HWc)
