"""Packed rows -> flat batches for the model: documents sorted by length, loss places, and the draws of noise.

The rows of step s are a pure function of (seed, s); the noise of a row of (seed, s, its place in the batch). So the
result depends neither on micro-batches nor on workers, and a resumed run draws what the first one would have drawn.

Rows on disk hold each image once. Where later elements read images clean, a copy is put behind the patches of each image
that a loss depends on, with the same positions; what comes behind keeps the position that it has on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.arrays import RowReader
from stages.artifacts.sequences import RowTable, SequencesContent
from stages.coders.scale import LatentScale
from stages.core.errors import ExitCode, TfcliError
from stages.core.seeds import numpy_generator, torch_generator
from stages.diffusion.process import Diffusion
from stages.diffusion.weighting import Weighting
from stages.model.attention import Attention, DenseAttention, FlexAttention, allowed, group_mask
from stages.model.cpu.attention import Group, GroupedAttention
from stages.model.transformer import ImageInputs, Inputs
from stages.train_model.config import Kernel

# Document lengths are rounded up to a multiple of this, so that few groups remain: 1.15 times faster than 4 on `shapes`,
# though more places are empty.
LENGTH_STEP = 8
IntArray = np.ndarray[Any, np.dtype[np.int64]]
BoolArray = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class ImageTruth:
    """What the model should predict of the images of one entry of Inputs.images, how much each counts in training, and
    the factor from its error to that of the noise."""

    target_IChw: Tensor
    weights_I: Tensor
    noise_errors_I: Tensor


@dataclass(frozen=True)
class Elements:
    """Document and image (-1: none) of each element, numbered within the batch; the groups of documents of one length; and
    which patches only their own image sees (None: no such)."""

    documents_N: Tensor
    images_N: Tensor
    groups: GroupedAttention
    bidirectional: bool
    hidden_N: Tensor | None = None

    def attention(self, kernel: Kernel, device: torch.device) -> Attention:
        """The kernel over these elements, on their device. "auto": grouped on CPU, flex on CUDA. Raises TfcliError (USAGE)
        where it cannot learn."""
        if kernel == "flex" and device.type == "cpu":
            why, fix = "FlexAttention has no backward pass on CPU", "leave train.attention at auto"
            raise TfcliError('train.attention = "flex" needs CUDA', why=why, fix=fix, code=ExitCode.USAGE)
        facts = (self.documents_N, self.images_N, self.hidden_N)
        if kernel == "dense":
            return DenseAttention(allowed(*facts, bidirectional=self.bidirectional))
        if kernel == "flex" or (kernel == "auto" and device.type == "cuda"):
            return FlexAttention.build(*facts, bidirectional=self.bidirectional)
        return self.groups

    def map(self, move: Callable[[Tensor], Tensor]) -> Elements:
        """The same with `move` of each tensor."""
        return Elements(
            move(self.documents_N),
            move(self.images_N),
            GroupedAttention(tuple(group.map(move) for group in self.groups.groups)),
            self.bidirectional,
            None if self.hidden_N is None else move(self.hidden_N),
        )


@dataclass(frozen=True)
class Batch:
    """What one forward pass needs. images: beside inputs.images. elements: what the mask follows from."""

    inputs: Inputs
    elements: Elements
    attention: Attention
    loss_places: Tensor  # int64: elements whose next element is a text target
    targets: Tensor  # int64: the ids of those next elements
    images: tuple[ImageTruth, ...]
    num_elements: int  # real elements and clean copies, without padding
    squared_lengths: int  # sum over the documents of the square of these elements

    @property
    def num_images(self) -> int:
        return sum(len(image.weights_I) for image in self.images)

    @property
    def num_read(self) -> int:
        """Images without a loss: given ones and clean copies."""
        return sum(len(image.t_I) for image in self.inputs.context)

    def to(self, device: torch.device, kernel: Kernel = "auto") -> Batch:
        """The batch on `device`, with that attention kernel."""
        moved = self
        if device.type == "cuda":
            moved = self.map(lambda value: value.pin_memory().to(device, non_blocking=True))
        return replace(moved, attention=moved.elements.attention(kernel, device))

    def emptied(self) -> Batch:
        """The same pass without anything that counts: no images, no targets. Its gradient is zero for every weight that it
        reaches. For a process that has to take part in an exchange of weights and has no rows."""
        inputs = replace(self.inputs, images=(), context=())
        return replace(
            self,
            inputs=inputs,
            loss_places=self.loss_places[:0],
            targets=self.targets[:0],
            images=(),
            num_elements=0,
            squared_lengths=0,
        )

    def map(self, move: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `move` of each tensor, and the grouped kernel."""
        inputs, elements = self.inputs, self.elements.map(move)
        images, context = (
            tuple(ImageInputs(move(i.latents_IChw), move(i.t_I), move(i.patch_index_IP)) for i in each)
            for each in (inputs.images, inputs.context)
        )
        return Batch(
            Inputs(move(inputs.positions_N), move(inputs.text_ids_T), move(inputs.text_index_T), images, context),
            elements,
            elements.groups,
            move(self.loss_places),
            move(self.targets),
            tuple(ImageTruth(move(i.target_IChw), move(i.weights_I), move(i.noise_errors_I)) for i in self.images),
            self.num_elements,
            self.squared_lengths,
        )


@lru_cache(maxsize=2)  # of a hundred million rows it takes seconds
def _order(num_rows: int, seed: int, epoch: int) -> IntArray:
    return numpy_generator(seed, "rows", epoch).permutation(num_rows)


def rows_of_step(num_rows: int, batch_rows: int, seed: int, step: int) -> IntArray:
    """The rows of step `step` (from 0): a shuffled pass over all rows after another, cut into batches."""
    places = np.arange(step * batch_rows, (step + 1) * batch_rows)
    rows = np.empty(batch_rows, dtype=np.int64)
    for epoch in np.unique(places // num_rows):
        order = _order(num_rows, seed, int(epoch))
        inside = places // num_rows == epoch
        rows[inside] = order[places[inside] % num_rows]
    return rows


class BatchMaker:
    """Makes batches from one split of Sequences and the latents that it refers to."""

    def __init__(
        self,
        table: RowTable,
        facts: SequencesContent,
        latents: tuple[RowReader, ...],
        diffusion: Diffusion,
        *,
        noise_limit: int,
        weighting: Weighting,
        bidirectional: bool,
        clean_context: bool = False,
    ) -> None:
        self.table = table
        self.facts = facts
        self.latents = latents
        self.diffusion = diffusion
        self.noise_limit = min(noise_limit, diffusion.num_steps)
        self.weighting = weighting
        self.bidirectional = bidirectional
        self.clean_context = clean_context
        self.scale = LatentScale(facts.channel_mean, facts.channel_std)

    def make(self, rows: IntArray, names: list[tuple[int | str, ...]], seed: int) -> Batch:
        """The batch of `rows`; names[i] names the noise draws of rows[i] together with the seed."""
        table = self.table
        entries, document_slots = _spans(table.row_documents, rows)
        documents = table.documents[entries]
        entries, slots = _spans(table.row_images, rows)
        images = table.images[entries]
        # A row may stand twice in a batch (at an epoch's border), so documents are counted from their slot's first.
        owners = np.searchsorted(document_slots, slots) + images[:, 5] - table.row_documents[rows[slots]]
        shown = self._shown(images, documents[owners])
        layout = _Layout(documents, images, owners, shown.copied)
        image_of_element = np.full(layout.num_elements, -1, dtype=np.int64)
        hidden = np.zeros(layout.num_elements, dtype=bool) if self.clean_context else None
        for number, place in enumerate(layout.places):
            image_of_element[place] = number
            if hidden is not None:
                hidden[place] = not shown.given[number]
            if shown.copied[number]:
                image_of_element[place + len(place)] = len(images) + number
        ids = np.where(layout.inside, table.ids[layout.row, layout.column], self.facts.pad).astype(np.int64)
        is_text = layout.inside & (image_of_element < 0)
        has_loss = is_text & layout.has_next & (ids != self.facts.boi) & ~layout.dropped
        text_places = np.nonzero(is_text)[0]
        loss_places = np.nonzero(has_loss)[0]
        elements = layout.elements(image_of_element, hidden, self.bidirectional)
        noised, context, truths = self._images(names, seed, images, slots, layout.places, shown)
        return Batch(
            inputs=Inputs(
                positions_N=torch.from_numpy(layout.position),
                text_ids_T=torch.from_numpy(ids[text_places]),
                text_index_T=torch.from_numpy(text_places),
                images=noised,
                context=context,
            ),
            elements=elements,
            attention=elements.groups,
            loss_places=torch.from_numpy(loss_places),
            targets=torch.from_numpy(ids[loss_places + 1]),
            images=truths,
            num_elements=int(layout.inside.sum()),
            squared_lengths=layout.squared_lengths,
        )

    def _shown(self, images: IntArray, own: IntArray) -> _Shown:
        """How each image is shown. own: its document."""
        leads = _leads(images, own)
        given = leads & (self.noise_limit == 0)
        if not self.clean_context:
            return _Shown(leads, given, np.zeros(len(images), dtype=bool))
        # Something reads an image if text is predicted behind it: from its EOI on, where that is not the document's end. A
        # document without its caption has one image and no text loss.
        eoi = images[:, 1] - own[:, 1] + images[:, 2]
        return _Shown(leads, given, ~given & (eoi < own[:, 2] - 1) & (own[:, 4] == 0))

    def _images(
        self,
        names: list[tuple[int | str, ...]],
        seed: int,
        images: IntArray,
        slots: IntArray,
        places: list[IntArray],
        shown: _Shown,
    ) -> tuple[tuple[ImageInputs, ...], tuple[ImageInputs, ...], tuple[ImageTruth, ...]]:
        """Posterior draw, one t per image, forward noise, by grid: images with a loss, clean ones without, and the truth of the
        first. slots: the place in the batch of each image's row. A copy is of the same draw as its image."""
        limits = np.where(shown.leads, self.noise_limit, self.diffusion.num_steps)
        noised, context, truths = [], [], []
        for grid in np.unique(images[:, 4]):
            members = np.nonzero(images[:, 4] == grid)[0]
            stored = torch.from_numpy(self.latents[grid].read(images[members, 3])).float()
            posteriors, times, noises = [], [], []
            for slot in np.unique(slots[members]):
                generator = torch_generator(seed, "noise", *names[slot], int(grid))
                inside = members[slots[members] == slot]
                shape = (len(inside), *stored.shape[2:])
                posteriors.append(torch.randn(shape, generator=generator))
                limit, pixels = torch.from_numpy(limits[inside]), shape[-2] * shape[-1]
                times.append(self.diffusion.sample_timesteps(limit, pixels, generator))
                noises.append(torch.randn(shape, generator=generator))
            t, noise = torch.cat(times), torch.cat(noises)
            clean = self.scale.sample_posterior(stored[:, 0], stored[:, 1], torch.cat(posteriors))
            patch_places = torch.from_numpy(np.stack([places[member] for member in members]))
            given, copied = torch.from_numpy(shown.given[members]), torch.from_numpy(shown.copied[members])
            if given.any() or copied.any():
                read = given | copied
                behind = torch.where(copied[:, None], patch_places + patch_places.shape[1], patch_places)
                context.append(ImageInputs(clean[read], torch.zeros_like(t[read]), behind[read]))
            if given.any():
                clean, noise, t, patch_places = (each[~given] for each in (clean, noise, t, patch_places))
            if not len(t):
                continue
            noised.append(ImageInputs(self.diffusion.add_noise(clean, noise, t), t, patch_places))
            target = self.diffusion.targets(clean, noise, t)
            weights = self.diffusion.loss_weights(t, self.weighting)
            truths.append(ImageTruth(target, weights, self.diffusion.eps_mse_factor(t)))
        return tuple(noised), tuple(context), tuple(truths)


@dataclass(frozen=True)
class _Shown:
    """Of each image: whether it begins its document, is given (clean, no loss), and has a clean copy behind it."""

    leads: BoolArray
    given: BoolArray
    copied: BoolArray


class _Layout:
    """The flat line: documents sorted by rounded length; for each element its row, column and position in the document."""

    def __init__(self, documents: IntArray, images: IntArray, owners: IntArray, copied: BoolArray) -> None:
        """owners: the document of each image, in order. copied: the images that have a copy behind them."""
        copies = np.where(copied, images[:, 2], 0)
        full = documents[:, 2] + np.bincount(owners, weights=copies, minlength=len(documents)).astype(np.int64)
        self.squared_lengths = int((full**2).sum())
        rounded = -(-full // LENGTH_STEP) * LENGTH_STEP
        order = np.argsort(rounded, kind="stable")
        self.lengths = rounded[order]
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.num_elements = int(self.starts[-1])
        self.owner = owner = np.repeat(np.arange(len(order)), self.lengths)
        # Where the patches of each image lie: behind the copies of the images before it in its document.
        before = np.cumsum(copies) - copies
        before = before - before[np.searchsorted(owners, owners)]
        place_of_document = np.argsort(order)
        first = self.starts[place_of_document[owners]] + images[:, 1] - documents[owners, 1] + before
        self.places = [np.arange(one, one + count) for one, count in zip(first, images[:, 2], strict=True)]
        # A copy stands at the positions of its image, and so everything behind it at its position on disk.
        back = np.zeros(self.num_elements, dtype=np.int64)
        back[(first + images[:, 2])[copied]] = copies[copied]
        back = np.cumsum(back)
        place = np.arange(self.num_elements) - self.starts[owner]
        self.position = place - (back - back[self.starts[owner]])
        own = documents[order][owner]
        self.inside = place < full[order][owner]
        self.has_next = self.position < own[:, 2] - 1
        self.row = own[:, 0]
        self.column = np.where(self.inside, own[:, 1] + self.position, 0)
        self.dropped = own[:, 4] == 1

    def elements(self, image_of_element: IntArray, hidden: BoolArray | None, bidirectional: bool) -> Elements:
        groups = []
        images = torch.from_numpy(image_of_element)
        hidden_N = None if hidden is None else torch.from_numpy(hidden)
        for length in np.unique(self.lengths):
            members = np.nonzero(self.lengths == length)[0]
            first, shape = int(self.starts[members[0]]), (len(members), int(length))
            span = slice(first, first + shape[0] * shape[1])
            own_hidden = None if hidden_N is None else hidden_N[span].view(shape)
            mask = group_mask(images[span].view(shape), own_hidden, bidirectional=bidirectional)
            groups.append(Group.of(first, mask))
        return Elements(torch.from_numpy(self.owner), images, GroupedAttention(tuple(groups)), bidirectional, hidden_N)


def _leads(images: IntArray, own: IntArray) -> BoolArray:
    """Whether an image begins its document (own): only marks stand before it. Where that is so because a caption was dropped,
    it does not count: such a document teaches drawing."""
    # BOS, BOI, and where sizes are told the size; a second image never begins so early
    at_start = images[:, 1] - own[:, 1] <= 3
    first: BoolArray = at_start & (own[:, 5] == 1) & (own[:, 4] == 0)
    return first


def _spans(offsets: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Entries of a table that belong to `rows`, in their order, and the place of each entry's row among `rows`."""
    entries = [np.arange(offsets[row], offsets[row + 1]) for row in rows]
    return np.concatenate(entries), np.repeat(np.arange(len(rows)), [len(part) for part in entries])
