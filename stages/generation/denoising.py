"""Images of several documents, of any sizes, denoised together, each after the elements of its document so far.

Each group of images of one size and kind is the steps of one sampler, which yields (x_t, t) and waits for the estimate of x_0.
One pass of the model over the patches of all groups answers them, with all branches of guidance that have a weight at their
noise levels.

Legend: I images of a group, C, h, w of a latent, P patches; R segments of a group: branches x I, branch by branch; N elements
of all segments.
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
from stages.generation.kv_cache import CachedAttention, CacheSegment, KeyValueCache
from stages.generation.loading import LoadedModel
from stages.generation.prompts import Denoised, GenerationEvent, ImageEdit, ImageStarted, Size
from stages.generation.state import DocumentState
from stages.model.transformer import ImageInputs, Inputs


@dataclass
class _Group:
    """Images of one `group_key`. x_t (I, C, h, w), t: what the sampler yielded last. weights: of the branches at that t."""

    documents: list[DocumentState]
    size: Size
    steps: DenoisingSteps
    x_t: Tensor
    t: int
    weights: dict[Branch, float]


@dataclass(frozen=True)
class _Layout:
    """What stays the same at every step of some groups: positions and attention of all segments, and for each group the indices
    of its patches among the N."""

    positions_N: Tensor
    attention: CachedAttention
    patch_index_RP: list[Tensor]


class Denoiser:
    """Generates images with one loaded model and one set of options, after the sequences in `cache`."""

    def __init__(
        self, loaded: LoadedModel, config: GenerationConfig, seed: int, runtime: Runtime, cache: KeyValueCache
    ) -> None:
        self.loaded, self.config, self.seed, self.runtime, self.cache = loaded, config, seed, runtime, cache
        self.guidance = config.guidance_settings()

    def denoise(self, documents: list[DocumentState], *, report_steps: bool) -> Iterator[GenerationEvent]:
        """Append an image to `latents` of each document, whose BOI is in the cache; the lengths of the cache do not change.

        report_steps: yield an event for each step as well.
        """
        for document in documents:
            yield ImageStarted(document.index, document.num_images, _size(document))
        ordered = sorted(documents, key=group_key)
        groups = [self._start_group(list(members)) for _, members in groupby(ordered, group_key)]
        live = [group for group in groups if group is not None]
        branches: list[tuple[Branch, ...]] = []  # of each group, at the last step
        while live:
            self.runtime.interrupts.check("nothing of these images was kept")
            now = [tuple(group.weights) for group in live]
            if now != branches:  # other groups than before, or other branches
                layout, branches = self._layout(live), now
            estimates = self._x0_estimates(live, layout)
            if report_steps:
                yield from self._report(live, estimates)
            num_groups = len(live)
            live = [group for group, x0 in zip(live, estimates, strict=True) if self._advance(group, x0)]
            if len(live) < num_groups:
                branches = []

    def _report(self, groups: list[_Group], estimates: list[Tensor]) -> Iterator[GenerationEvent]:
        limit = self.loaded.checkpoint.content.latent_limit
        for group, x0_IChw in zip(groups, estimates, strict=True):
            for document, x0 in zip(group.documents, x0_IChw.clamp(-limit, limit), strict=True):
                edit = document.edit
                if edit is not None and edit.change_hw is not None:
                    x0 = torch.where(edit.change_hw.to(x0.device), x0, edit.latent)
                yield Denoised(document.index, document.num_images, group.t, x0)

    def _start_group(self, documents: list[DocumentState]) -> _Group | None:
        """The group at its first step; None where the sampler has no step. The seed of the noise is named by the document and
        the number of its image."""
        size = _size(documents[0])
        shape, device = (self.loaded.latent_shape[0], *size), self.loaded.device
        generators = [
            torch_generator(self.seed, "image", document.index, document.num_images) for document in documents
        ]

        def draw_noise() -> Tensor:
            return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)

        diffusion, sampler = self.loaded.diffusion, self.config.sampler
        limit, eps = self.loaded.checkpoint.content.latent_limit, draw_noise()
        edits = [document.edit for document in documents if document.edit is not None]
        if edits:
            x0, change = _stacked(edits, device)
            steps = edit_steps(sampler, x0, change, edits[0].strength, eps, diffusion, draw_noise, limit)
        else:
            steps = sampler.denoising_steps(eps, diffusion, draw_noise, limit)
        group = _Group(documents, size, steps, eps, 0, {})
        return group if self._advance(group, None) else None

    def _advance(self, group: _Group, x0: Tensor | None) -> bool:
        """Send the estimate of x_0 (None: the first step). False after the last step: then each document has its image."""
        try:
            group.x_t, group.t = next(group.steps) if x0 is None else group.steps.send(x0)
        except StopIteration as end:
            for document, latent in zip(group.documents, end.value, strict=True):
                document.latents.append(latent)
            return False
        sigma = float(self.loaded.diffusion.sigma[group.t])
        group.weights = self.guidance.weights(has_images=group.documents[0].has_images, sigma=sigma)
        return True

    def _layout(self, groups: list[_Group]) -> _Layout:
        side, device = self.loaded.checkpoint.content.patch_side, self.loaded.device
        causal = self.loaded.model.config.image_attention == "causal"
        segments: list[CacheSegment] = []
        patch_index_RP: list[Tensor] = []
        first = 0
        for group in groups:
            patches = group.size[0] * group.size[1] // side**2
            slots = [document.slots[branch] for branch in group.weights for document in group.documents]
            for slot in slots:
                start = self.cache.lengths[slot]
                mask_TM = None
                if causal:
                    mask_TM = torch.ones(patches, start + patches, dtype=torch.bool, device=device).tril(start)
                segments.append(CacheSegment(slot, start, patches, mask_TM))
            index = torch.arange(first, first + len(slots) * patches, device=device)
            patch_index_RP.append(index.view(len(slots), patches))
            first += index.numel()
        self.cache.reserve(max(segment.start + segment.count for segment in segments))
        positions = [torch.arange(each.start, each.start + each.count, device=device) for each in segments]
        attention = CachedAttention.build(self.cache, tuple(segments))
        return _Layout(torch.cat(positions), attention, patch_index_RP)

    def _x0_estimates(self, groups: list[_Group], layout: _Layout) -> list[Tensor]:
        """The guided estimate of x_0 for each group, (I, C, h, w), from one pass of the model."""
        images = []
        for group, patch_index_RP in zip(groups, layout.patch_index_RP, strict=True):
            num_branches = len(patch_index_RP) // len(group.x_t)
            t_R = torch.full((len(patch_index_RP),), group.t, device=group.x_t.device)
            images.append(ImageInputs(group.x_t.repeat(num_branches, 1, 1, 1), t_R, patch_index_RP))
        no_text = layout.positions_N.new_zeros(0)
        inputs = Inputs(layout.positions_N, no_text, no_text, tuple(images))
        outputs = self.loaded.model.image_outputs(self.loaded.model.hidden(inputs, layout.attention))
        return [self._guided(group, output) for group, output in zip(groups, outputs, strict=True)]

    def _guided(self, group: _Group, output_RChw: Tensor) -> Tensor:
        x_t, diffusion = group.x_t, self.loaded.diffusion
        estimates = [diffusion.to_x0(output.to(x_t.dtype), x_t, group.t) for output in output_RChw.split(len(x_t))]
        return combined(estimates, list(group.weights.values()), self.guidance.rescale)


def group_key(document: DocumentState) -> tuple[Size, float, bool, bool]:
    """What the next images of documents must have in common to be the steps of one sampler: size, strength, whether they are
    edits, and whether guidance has images to leave out."""
    edit = document.edit
    return _size(document), 1.0 if edit is None else edit.strength, edit is not None, document.has_images


def _size(document: DocumentState) -> Size:
    assert document.size is not None
    return document.size


def _stacked(edits: list[ImageEdit], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Latents (I, C, h, w), and where they may change, (I, 1, h, w); None where all may change everywhere."""
    latents = torch.stack([edit.latent for edit in edits]).to(device)
    if all(edit.change_hw is None for edit in edits):
        return latents, None
    everywhere = torch.ones(latents.shape[2:], dtype=torch.bool)
    masks = [everywhere if edit.change_hw is None else edit.change_hw for edit in edits]
    return latents, torch.stack(masks)[:, None].to(device)
