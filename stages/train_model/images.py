"""The images of a batch: what each of them is for, and the latents, noise and times that the model trains on.

An image with a loss is there `diffusion.noise_draws` times, each time with its own t and eps: several image gradients for one
pass over its caption. All draws hold the same x_0, and have the same positions; only the first can be seen by later elements.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.arrays import RowReader
from stages.artifacts.tables import BoolArray, ImageTable, IntArray
from stages.coders.scale import LatentScale
from stages.core.seeds import torch_generator
from stages.diffusion.process import Diffusion
from stages.diffusion.timesteps import strata
from stages.diffusion.weighting import Weighting
from stages.model.transformer import ImageInputs

RowKey = tuple[int | str, ...]  # what the random draws of a row are derived from, together with the seed


@dataclass(frozen=True)
class ImageTruth:
    """What the model should predict for the images of one entry of Inputs.images.

    Args:
        target_IChw: eps, x0 or v, as diffusion.target says.
        weights_I: weight of each image in the training loss.
        eps_mse_factor_I: what turns the squared error of the output into that of eps, which logs report.
    """

    target_IChw: Tensor
    weights_I: Tensor
    eps_mse_factor_I: Tensor


@dataclass(frozen=True)
class BatchImages:
    """The images of a batch.

    Args:
        records: rows of the table of images.
        slots: index in the batch of each image's row.
        limits_KI: largest t of each draw of each image; 0: it is given to the model, clean and without a loss.
        num_draws: how often each image is there with noise and a loss; 1 for one that is given.
        has_clean_copy: whether a clean copy of it follows its noised patches.
    """

    records: ImageTable
    slots: IntArray
    limits_KI: IntArray
    num_draws: IntArray
    has_clean_copy: BoolArray

    @property
    def is_conditioning(self) -> BoolArray:
        """Whether an image is given to the model: clean, without a loss."""
        given: BoolArray = self.limits_KI[0] == 0
        return given


@dataclass(frozen=True)
class ImageMaker:
    """Makes the images of a batch from their latents.

    Args:
        latents: readers of the latent records, by grid.
        scale: of the latents.
        diffusion: the forward process.
        weighting: of the image loss by noise level.
        noise_draws: how often each image with a loss is in a batch.
        stratified_times: whether the times of a row cover their distribution evenly.
    """

    latents: tuple[RowReader, ...]
    scale: LatentScale
    diffusion: Diffusion
    weighting: Weighting
    noise_draws: int = 1
    stratified_times: bool = False

    def make(
        self, keys: list[RowKey], seed: int, images: BatchImages, patch_index: list[IntArray]
    ) -> tuple[tuple[ImageInputs, ...], tuple[ImageInputs, ...], tuple[ImageTruth, ...]]:
        """By grid: the images with a loss, noised, draw by draw; images that are only read, clean; and the truth of the first.

        Args:
            keys: what the random draws of each row are derived from, together with the seed.
            seed: of the recipe.
            images: of the batch.
            patch_index: indices in the batch of the patches of each image, in its first draw.
        """
        noised, context, truths = [], [], []
        u_KI = self._strata(keys, seed, images) if self.stratified_times else None
        grids = images.records.grid
        for grid in np.unique(grids):
            members = np.nonzero(grids == grid)[0]
            x0_IChw, eps_KIChw, t_KI = self._random_draws(keys, seed, images, members, u_KI)
            index_IP = torch.from_numpy(np.stack([patch_index[member] for member in members]))
            is_conditioning = torch.from_numpy(images.is_conditioning[members])
            has_clean_copy = torch.from_numpy(images.has_clean_copy[members])
            is_read = is_conditioning | has_clean_copy
            if is_read.any():  # a copy is after its image, and has the same latents
                read_index = torch.where(has_clean_copy[:, None], index_IP + index_IP.shape[1], index_IP)
                context.append(ImageInputs(x0_IChw[is_read], torch.zeros_like(t_KI[0, is_read]), read_index[is_read]))
            has_loss = ~is_conditioning
            if not has_loss.any():
                continue
            eps, t = eps_KIChw[:, has_loss].flatten(0, 1), t_KI[:, has_loss].flatten()
            x0 = x0_IChw[has_loss].repeat(len(t_KI), 1, 1, 1)
            noised.append(ImageInputs(self.diffusion.add_noise(x0, eps, t), t, self._index(index_IP[has_loss])))
            target = self.diffusion.targets(x0, eps, t)
            weights = self.diffusion.loss_weights(t, self.weighting)
            truths.append(ImageTruth(target, weights, self.diffusion.eps_mse_factor(t)))
        return tuple(noised), tuple(context), tuple(truths)

    def _index(self, index_IP: Tensor) -> Tensor:
        """Indices of the patches of all draws, (K I, P), from those of the first; the further ones are right before it."""
        back = torch.arange(self.noise_draws) * index_IP.shape[1]
        return (index_IP[None] - back[:, None, None]).flatten(0, 1)

    def _strata(self, keys: list[RowKey], seed: int, images: BatchImages) -> Tensor:
        """For each draw of each image, whatever its grid, a value in [0, 1), (K, I). Of a row, those of one limit cover [0, 1)
        evenly."""
        u_KI = torch.empty(images.limits_KI.shape, dtype=torch.float64)
        for slot in np.unique(images.slots):
            generator = torch_generator(seed, "times", *keys[slot])
            of_slot = images.slots == slot
            for limits_K in np.unique(images.limits_KI[:, of_slot], axis=1).T:
                alike = np.nonzero(of_slot & (images.limits_KI == limits_K[:, None]).all(0))[0]
                for limit in np.unique(limits_K):
                    draws = np.nonzero(limits_K == limit)[0]
                    u_KI[np.ix_(draws, alike)] = strata(len(draws), len(alike), generator)
        return u_KI

    def _random_draws(
        self, keys: list[RowKey], seed: int, images: BatchImages, members: IntArray, u_KI: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """For the I images `members` of one grid: x0 from the posterior of their latents, (I, C, h, w), and for each of K draws
        eps, (K, I, C, h, w), and t, (K, I). u_KI: where in its distribution each t of the batch is; None: anywhere."""
        grid = int(images.records.grid[members[0]])
        stored = torch.from_numpy(self.latents[grid].read(images.records.latent_row[members])).float()
        limits_KI, pixels = torch.from_numpy(images.limits_KI[:, members]), stored.shape[-2] * stored.shape[-1]
        posteriors, times, noises = [], [], []
        for slot in np.unique(images.slots[members]):
            of_slot = torch.from_numpy(images.slots[members] == slot)
            shape = (int(of_slot.sum()), *stored.shape[2:])
            own_times, own_noises = [], []
            for draw in range(self.noise_draws):
                name = ("noise draw", *keys[slot], grid, draw) if draw else ("noise", *keys[slot], grid)
                generator = torch_generator(seed, *name)
                if not draw:
                    posteriors.append(torch.randn(shape, generator=generator))
                own_times.append(self.diffusion.sample_timesteps(limits_KI[draw, of_slot], pixels, generator))
                own_noises.append(torch.randn(shape, generator=generator))
            times.append(torch.stack(own_times))
            noises.append(torch.stack(own_noises))
        x0 = self.scale.sample_posterior(stored[:, 0], stored[:, 1], torch.cat(posteriors))
        t_KI = torch.cat(times, dim=1)
        if u_KI is not None:
            t_KI = self.diffusion.timesteps_at(u_KI[:, members], limits_KI, pixels)
        return x0, torch.cat(noises, dim=1), t_KI
