"""Images of several documents, of any sizes, denoised together behind what each document says so far.

Every image is a walk of the sampler that asks for x_0; the walks of one size and course go as one, and all that ask in the
same turn are answered by one pass of the model over their patches alone, with all branches of guidance in it that count
at their noise levels.

Legend: I images of a group, C, h, w of a latent, P patches; R rows: branches x I, branch by branch; N elements of all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from stages.core.runtime import Runtime
from stages.core.seeds import torch_generator
from stages.diffusion.guidance import Branch, combined
from stages.diffusion.inpainting import edit_steps
from stages.diffusion.samplers import DenoisingSteps
from stages.generation.config import GenerationConfig
from stages.generation.kv_cache import CachedAttention, KeyValueCache, Row
from stages.generation.loading import LoadedModel
from stages.generation.prompts import Denoised, Edit, Event, ImageBegun, Size
from stages.generation.state import Document
from stages.model.transformer import ImageInputs, Inputs


@dataclass
class _Group:
    """Images of one size, course and kind of document on one walk. question: the (x_t, t) that it waits for an answer to;
    weights: of the branches at that t."""

    documents: list[Document]
    size: Size
    walk: DenoisingSteps
    question: tuple[Tensor, int]
    weights: dict[Branch, float]


@dataclass(frozen=True)
class _Places:
    """What stays the same at every step of some groups: positions and attention of all rows, and each group's elements."""

    positions_N: Tensor
    attention: CachedAttention
    places_RP: list[Tensor]


class Drawing:
    """Draws with one loaded model and one set of options, behind the sequences of `cache`."""

    def __init__(
        self, loaded: LoadedModel, config: GenerationConfig, seed: int, runtime: Runtime, cache: KeyValueCache
    ) -> None:
        self.loaded, self.config, self.seed, self.runtime, self.cache = loaded, config, seed, runtime, cache
        self.guidance = config.guided_by()

    def draw(self, documents: list[Document], *, steps: bool) -> Iterator[Event]:
        """Append an image to `latents` of each document, whose BOI is in the cache; the cache counts no element of it.

        steps: report each step.
        """
        for document in documents:
            yield ImageBegun(document.index, document.images, _size(document))
        ordered = sorted(documents, key=self._course)
        begun = [self._group(list(found)) for _, found in groupby(ordered, self._course)]
        live = [group for group in begun if group is not None]
        asked: list[tuple[Branch, ...]] = []
        while live:
            self.runtime.interrupts.check("nothing of these images was kept")
            now = [tuple(group.weights) for group in live]
            if now != asked:  # other groups than before, or other branches
                places, asked = self._place(live), now
            answers = self._answer(live, places)
            if steps:
                yield from self._told(live, answers)
            live, before = [], live
            for group, answer in zip(before, answers, strict=True):
                if self._goes_on(group, answer):
                    live.append(group)
            if len(live) < len(before):
                asked = []

    def _told(self, groups: list[_Group], answers: list[Tensor]) -> Iterator[Event]:
        limit = self.loaded.checkpoint.content.latent_limit
        for group, answer in zip(groups, answers, strict=True):
            for document, estimate in zip(group.documents, answer.clamp(-limit, limit), strict=True):
                edit = document.edit
                if edit is not None and edit.change_hw is not None:
                    estimate = torch.where(edit.change_hw.to(estimate.device), estimate, edit.latent)
                yield Denoised(document.index, document.images, group.question[1], estimate)

    def _course(self, document: Document) -> tuple[Size, float, bool, bool]:
        """What images on one walk have in common."""
        edit = document.edit
        return _size(document), 1.0 if edit is None else edit.strength, edit is not None, document.has_images

    def _group(self, documents: list[Document]) -> _Group | None:
        """None where the walk ends before a first question. Noise is named by the document and the number of its image."""
        size = _size(documents[0])
        shape, device = (self.loaded.latent_shape[0], *size), self.loaded.device
        generators = [torch_generator(self.seed, "image", document.index, document.images) for document in documents]

        def draw_noise() -> Tensor:
            return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)

        limit = self.loaded.checkpoint.content.latent_limit
        sampler, noise = self.config.sampler, draw_noise()
        edits = [document.edit for document in documents if document.edit is not None]
        if edits:
            clean, change = _stacked(edits, device)
            args = (noise, self.loaded.diffusion, draw_noise, limit)
            walk = edit_steps(sampler, clean, change, edits[0].strength, *args)
        else:
            walk = sampler.denoising_steps(noise, self.loaded.diffusion, draw_noise, limit)
        group = _Group(documents, size, walk, (noise, 0), {})
        return group if self._goes_on(group, None) else None

    def _goes_on(self, group: _Group, answer: Tensor | None) -> bool:
        """Begin a group's walk (None) or answer its question. False where the walk ends: then each document has its image."""
        try:
            group.question = next(group.walk) if answer is None else group.walk.send(answer)
        except StopIteration as end:
            for document, latent in zip(group.documents, end.value, strict=True):
                document.latents.append(latent)
            return False
        level = float(self.loaded.diffusion.sigma[group.question[1]])
        group.weights = self.guidance.weights(has_images=group.documents[0].has_images, sigma=level)
        return True

    def _place(self, groups: list[_Group]) -> _Places:
        side, device = self.loaded.checkpoint.content.patch_side, self.loaded.device
        causal = self.loaded.model.config.image_attention == "causal"
        rows: list[Row] = []
        places_RP: list[Tensor] = []
        first = 0
        for group in groups:
            patches = group.size[0] * group.size[1] // side**2
            slots = [document.slots[branch] for branch in group.weights for document in group.documents]
            for slot in slots:
                start = self.cache.lengths[slot]
                mask_TM = None
                if causal:
                    mask_TM = torch.ones(patches, start + patches, dtype=torch.bool, device=device).tril(start)
                rows.append(Row(slot, start, patches, mask_TM))
            numbers = torch.arange(first, first + len(slots) * patches, device=device)
            places_RP.append(numbers.view(len(slots), patches))
            first += numbers.numel()
        self.cache.reserve(max(row.start + row.count for row in rows))
        positions = [torch.arange(row.start, row.start + row.count, device=device) for row in rows]
        return _Places(torch.cat(positions), CachedAttention.of(self.cache, tuple(rows)), places_RP)

    def _answer(self, groups: list[_Group], places: _Places) -> list[Tensor]:
        """The estimates of x_0 that the groups ask for, guided, from one pass."""
        images = []
        for group, places_RP in zip(groups, places.places_RP, strict=True):
            x_t, t = group.question
            branches = len(places_RP) // len(x_t)
            times = torch.full((len(places_RP),), t, device=x_t.device)
            images.append(ImageInputs(x_t.repeat(branches, 1, 1, 1), times, places_RP))
        nothing = places.positions_N.new_zeros(0)
        inputs = Inputs(places.positions_N, nothing, nothing, tuple(images))
        outputs = self.loaded.model.image_outputs(self.loaded.model.hidden(inputs, places.attention))
        return [self._guided(group, output) for group, output in zip(groups, outputs, strict=True)]

    def _guided(self, group: _Group, output_RChw: Tensor) -> Tensor:
        x_t, t = group.question
        estimates = [
            self.loaded.diffusion.to_x0(branch.to(x_t.dtype), x_t, t) for branch in output_RChw.split(len(x_t))
        ]
        return combined(estimates, list(group.weights.values()), self.guidance.rescale)


def _size(document: Document) -> Size:
    assert document.size is not None
    return document.size


def _stacked(edits: list[Edit], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Latents (I, C, h, w), and where they may change, (I, 1, h, w); None for everywhere in all."""
    clean = torch.stack([edit.latent for edit in edits]).to(device)
    if all(edit.change_hw is None for edit in edits):
        return clean, None
    everywhere = torch.ones(clean.shape[2:], dtype=torch.bool)
    masks = [everywhere if edit.change_hw is None else edit.change_hw for edit in edits]
    return clean, torch.stack(masks)[:, None].to(device)
