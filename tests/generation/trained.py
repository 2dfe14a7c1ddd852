"""A tiny model trained in seconds on letters and the images that they name, for tests of generation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from stages.diffusion.process import Diffusion
from stages.diffusion.schedules import CosineSchedule
from stages.diffusion.targets import VelocityTarget
from stages.model.attention import DenseAttention, allowed
from stages.model.config import ModelConfig
from stages.model.transformer import ImageInputs, Inputs, ModelDims, Transfusion

BOS, EOS, BOI, EOI, PAD = 1, 2, 3, 4, 0
CHANNELS, SIDE = 2, 4  # of latents; patches of side 2
PATCHES = (SIDE // 2) ** 2


class Letters:
    """A text coder with one id for each letter."""

    bos, eos, boi, eoi, pad = BOS, EOS, BOI, EOI, PAD

    def encode(self, text: str) -> list[int]:
        return [5 + ord(letter) - ord("a") for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + token - 5) for token in ids)


def parts_of(model: Transfusion, diffusion: Diffusion) -> Any:
    """The parts of a loaded checkpoint that the engine uses."""
    content = SimpleNamespace(patch_side=2, latent_limit=4.0, row_length=1000)
    return SimpleNamespace(
        model=model,
        text=Letters(),
        device=torch.device("cpu"),
        latent_shape=(CHANNELS, SIDE, SIDE),
        size_ids={},
        checkpoint=SimpleNamespace(content=content),
        diffusion=diffusion,
    )


def picture(letter: int, generator: torch.Generator) -> torch.Tensor:
    """A quadrant for each of four letters, brighter in one channel, in a little noise."""
    latent = 0.1 * torch.randn(CHANNELS, SIDE, SIDE, generator=generator) - 1
    row, column = divmod(letter, 2)
    latent[letter % CHANNELS, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 2
    return latent


def trained_model(steps: int = 220) -> Any:
    """Documents: a letter, its picture, the letter that follows in the alphabet, its picture; or a picture and its letter.

    It predicts the velocity v: x_0 = alpha x_t - sigma v, with the rounding of v. From a noise prediction, x_0 = (x_t - sigma
    eps) / alpha; the first step has alpha = 5e-5, which multiplies the rounding of eps by 20,000.
    """
    generator = torch.Generator().manual_seed(0)
    model = Transfusion(ModelConfig(width=48, layers=3, heads=3, rope_base=100.0), ModelDims(31, CHANNELS, 2))
    model.initialise(generator)
    diffusion = Diffusion(CosineSchedule(), VelocityTarget())
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, (steps - step) / (steps / 2))
        loss = _loss(model, diffusion, generator)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return parts_of(model.eval(), diffusion)


def _loss(model: Transfusion, diffusion: Diffusion, generator: torch.Generator) -> torch.Tensor:
    ids: list[int] = []
    documents: list[int] = []
    images: list[int] = []
    positions: list[int] = []
    latents: list[torch.Tensor] = []
    firsts: list[int] = []
    for number, letter in enumerate(torch.randint(0, 4, (16,), generator=generator).tolist()):
        letters = [letter, (letter + 1) % 4]
        elements = [BOS]
        if number % 4 == 0:  # the picture first
            elements += [BOI, "image", EOI, 5 + letter, EOS]
            letters = letters[:1]
        elif number == 1:  # without a condition
            elements += [BOI, "image", EOI, EOS]
            letters = letters[:1]
        else:
            elements += [5 + letter, BOI, "image", EOI, 5 + letters[1], BOI, "image", EOI, EOS]
        start = len(ids)
        for element in elements:
            if element == "image":
                firsts.append(len(ids))
                images += [len(latents)] * PATCHES
                ids += [PAD] * PATCHES
                latents.append(picture(letters.pop(0), generator))
            else:
                ids.append(element)
                images.append(-1)
        documents += [number] * (len(ids) - start)
        positions += range(len(ids) - start)
    x0, eps = torch.stack(latents), torch.randn(len(latents), CHANNELS, SIDE, SIDE, generator=generator)
    t = torch.randint(1, 1001, (len(latents),), generator=generator)
    t = torch.where(torch.rand(len(t), generator=generator) < 0.3, 0, t)  # clean pictures too, for what follows
    ids_N, images_N, documents_N = torch.tensor(ids), torch.tensor(images), torch.tensor(documents)
    text = (images_N < 0).nonzero()[:, 0]
    patch_index = torch.tensor(firsts)[:, None] + torch.arange(PATCHES)
    image = ImageInputs(diffusion.add_noise(x0, eps, t), t, patch_index)
    attention = DenseAttention(allowed(documents_N, images_N))
    before = text[:-1][(ids_N[text[:-1]] != BOI) & (documents_N[text[:-1]] == documents_N[text[:-1] + 1])]
    logits, (predicted,) = model(Inputs(torch.tensor(positions), ids_N[text], text, (image,)), attention, before)
    seen = (t > 0).float()
    error = (predicted - diffusion.targets(x0, eps, t)).square().flatten(1).mean(1)
    return F.cross_entropy(logits, ids_N[before + 1]) + 5 * (error * seen).sum() / seen.sum()
