"""Images of several documents, of any sizes, denoised together behind what each document says so far.

Every image is a walk of the sampler that asks for x_0; the walks of one size and course go as one, and all that ask in the
same turn are answered by one pass of the model over their patches alone, with all branches of guidance in it.

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
from stages.diffusion.guidance import guided
from stages.diffusion.samplers import Walk
from stages.generation.cache import CachedAttention, KeyValueCache, Row
from stages.generation.config import GenerationConfig
from stages.generation.document import Document
from stages.generation.loading import LoadedModel
from stages.generation.prompts import Denoised, Event, ImageBegun
from stages.model.transformer import ImageInputs, Inputs

Size = tuple[int, int]


@dataclass
class _Group:
    """Images of one size on one walk. question: the (x_t, t) that it waits for an answer to."""

    documents: list[Document]
    size: Size
    walk: Walk
    question: tuple[Tensor, int]


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

    def draw(self, documents: list[Document], *, steps: bool) -> Iterator[Event]:
        """Append an image to `latents` of each document, whose BOI is in the cache; the cache counts no element of it.

        steps: report each step.
        """
        for document in documents:
            yield ImageBegun(document.index, document.images, self.size_of(document))
        ordered = sorted(documents, key=self.size_of)
        live = [self._group(size, list(found)) for size, found in groupby(ordered, self.size_of)]
        places = self._place(live)
        while live:
            self.runtime.interrupts.check("nothing of these images was kept")
            answers = self._answer(live, places)
            if steps:
                yield from _told(live, answers)
            going = [group for group, answer in zip(live, answers, strict=True) if _goes_on(group, answer)]
            if going and len(going) < len(live):
                places = self._place(going)
            live = going

    def size_of(self, document: Document) -> Size:
        """(h, w) of the images that a document draws, in latent pixels."""
        return document.prompt.size or self.loaded.latent_shape[1:]

    def _group(self, size: Size, documents: list[Document]) -> _Group:
        """Noise is named by the document and the number of its image."""
        shape, device = (self.loaded.latent_shape[0], *size), self.loaded.device
        generators = [torch_generator(self.seed, "image", document.index, document.images) for document in documents]

        def draw_noise() -> Tensor:
            return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)

        limit = self.loaded.checkpoint.content.latent_limit
        walk = self.config.sampler.walk(draw_noise(), self.loaded.diffusion, draw_noise, limit)
        return _Group(documents, size, walk, next(walk))

    def _place(self, groups: list[_Group]) -> _Places:
        side, device = self.loaded.checkpoint.content.patch_side, self.loaded.device
        causal = self.loaded.model.config.image_attention == "causal"
        rows: list[Row] = []
        places_RP: list[Tensor] = []
        first = 0
        for group in groups:
            patches = group.size[0] * group.size[1] // side**2
            slots = [slot for branch in zip(*(d.slots for d in group.documents), strict=True) for slot in branch]
            for slot in slots:
                start = self.cache.lengths[slot]
                mask_TM = torch.ones(patches, start + patches, dtype=torch.bool, device=device).tril(start)
                rows.append(Row(slot, start, patches, mask_TM if causal else None))
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
            self.loaded.diffusion.to_clean(branch.to(x_t.dtype), x_t, t) for branch in output_RChw.split(len(x_t))
        ]
        if len(estimates) == 1:
            return estimates[0]
        conditional, unconditional = estimates
        return guided(conditional, unconditional, self.config.guidance)


def _goes_on(group: _Group, answer: Tensor) -> bool:
    """Answer a group's question. False where its walk ends with that: then each document has its image."""
    try:
        group.question = group.walk.send(answer)
    except StopIteration as end:
        for document, latent in zip(group.documents, end.value, strict=True):
            document.latents.append(latent)
        return False
    return True


def _told(groups: list[_Group], answers: list[Tensor]) -> Iterator[Event]:
    for group, answer in zip(groups, answers, strict=True):
        for document, estimate in zip(group.documents, answer, strict=True):
            yield Denoised(document.index, document.images, group.question[1], estimate)
