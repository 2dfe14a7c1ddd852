"""Packed rows -> flat batches for the model: documents sorted by length, loss places, and the draws of noise.

The rows of step s are a pure function of (seed, s); the noise of a row of (seed, s, its place in the batch). So the
result depends neither on micro-batches nor on workers, and a resumed run draws what the first one would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from stages.model.attention import Attention, DenseAttention, FlexAttention, GroupedAttention, allowed, group_mask
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
    """Document and image (-1: none) of each element, numbered within the batch; and the groups of documents of one length."""

    documents_N: Tensor
    images_N: Tensor
    groups: GroupedAttention
    bidirectional: bool

    def attention(self, kernel: Kernel, device: torch.device) -> Attention:
        """The kernel over these elements, on their device. "auto": grouped on CPU, flex on CUDA. Raises TfcliError (USAGE)
        where it cannot learn."""
        if kernel == "flex" and device.type == "cpu":
            why, fix = "FlexAttention has no backward pass on CPU", "leave train.attention at auto"
            raise TfcliError('train.attention = "flex" needs CUDA', why=why, fix=fix, code=ExitCode.USAGE)
        if kernel == "dense":
            return DenseAttention(allowed(self.documents_N, self.images_N, bidirectional=self.bidirectional))
        if kernel == "flex" or (kernel == "auto" and device.type == "cuda"):
            return FlexAttention.over(self.documents_N, self.images_N, bidirectional=self.bidirectional)
        return self.groups


@dataclass(frozen=True)
class Batch:
    """What one forward pass needs. images: beside inputs.images. elements: what the mask follows from."""

    inputs: Inputs
    elements: Elements
    attention: Attention
    loss_places: Tensor  # int64: elements whose next element is a text target
    targets: Tensor  # int64: the ids of those next elements
    images: tuple[ImageTruth, ...]
    num_elements: int  # real elements, without padding

    @property
    def num_images(self) -> int:
        return sum(len(image.weights_I) for image in self.images)

    def to(self, device: torch.device, kernel: Kernel = "auto") -> Batch:
        """The batch on `device`, with that attention kernel."""
        moved = self
        if device.type == "cuda":
            moved = self.map(lambda value: value.pin_memory().to(device, non_blocking=True))
        return replace(moved, attention=moved.elements.attention(kernel, device))

    def map(self, move: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `move` of each tensor, and the grouped kernel."""
        inputs, elements = self.inputs, self.elements
        images = tuple(ImageInputs(move(i.latents_IChw), move(i.t_I), move(i.places_IP)) for i in inputs.images)
        groups = GroupedAttention(
            tuple((first, count, length, move(mask)) for first, count, length, mask in elements.groups.groups)
        )
        return Batch(
            Inputs(move(inputs.positions_N), move(inputs.text_ids_T), move(inputs.text_places_T), images),
            replace(elements, documents_N=move(elements.documents_N), images_N=move(elements.images_N), groups=groups),
            groups,
            move(self.loss_places),
            move(self.targets),
            tuple(ImageTruth(move(i.target_IChw), move(i.weights_I), move(i.noise_errors_I)) for i in self.images),
            self.num_elements,
        )


def rows_of_step(num_rows: int, batch_rows: int, seed: int, step: int) -> IntArray:
    """The rows of step `step` (from 0): a shuffled pass over all rows after another, cut into batches."""
    places = np.arange(step * batch_rows, (step + 1) * batch_rows)
    rows = np.empty(batch_rows, dtype=np.int64)
    for epoch in np.unique(places // num_rows):
        order = numpy_generator(seed, "rows", int(epoch)).permutation(num_rows)
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
    ) -> None:
        self.table = table
        self.facts = facts
        self.latents = latents
        self.diffusion = diffusion
        self.noise_limit = min(noise_limit, diffusion.num_steps)
        self.weighting = weighting
        self.bidirectional = bidirectional
        self.scale = LatentScale(facts.channel_mean, facts.channel_std)

    def make(self, rows: IntArray, names: list[tuple[int | str, ...]], seed: int) -> Batch:
        """The batch of `rows`; names[i] names the noise draws of rows[i] together with the seed."""
        table = self.table
        documents, document_slots = _spans(table.row_documents, rows)
        layout = _Layout(table.documents[documents], documents, document_slots)
        entries, slots = _spans(table.row_images, rows)
        images = table.images[entries]
        owners = layout.owners(images[:, 5], slots)
        places = [layout.places(image, owner) for image, owner in zip(images, owners, strict=True)]
        image_of_element = np.full(layout.num_elements, -1, dtype=np.int64)
        for number, place in enumerate(places):
            image_of_element[place] = number
        ids = np.where(layout.inside, table.ids[layout.row, layout.column], self.facts.pad).astype(np.int64)
        is_text = layout.inside & (image_of_element < 0)
        has_loss = is_text & layout.has_next & (ids != self.facts.boi) & ~layout.dropped
        text_places = np.nonzero(is_text)[0]
        loss_places = np.nonzero(has_loss)[0]
        elements = layout.elements(image_of_element, self.bidirectional)
        inputs_of_images, truths = self._noised(names, seed, images, slots, places, layout.leads(images, owners))
        return Batch(
            inputs=Inputs(
                positions_N=torch.from_numpy(layout.position),
                text_ids_T=torch.from_numpy(ids[text_places]),
                text_places_T=torch.from_numpy(text_places),
                images=inputs_of_images,
            ),
            elements=elements,
            attention=elements.groups,
            loss_places=torch.from_numpy(loss_places),
            targets=torch.from_numpy(ids[loss_places + 1]),
            images=truths,
            num_elements=int(layout.inside.sum()),
        )

    def _noised(
        self,
        names: list[tuple[int | str, ...]],
        seed: int,
        images: IntArray,
        slots: IntArray,
        places: list[IntArray],
        leads: BoolArray,
    ) -> tuple[tuple[ImageInputs, ...], tuple[ImageTruth, ...]]:
        """Posterior draw, one t per image, forward noise; grouped by grid. slots: the place in the batch of each image's row."""
        limits = np.where(leads, self.noise_limit, self.diffusion.num_steps)
        inputs, truths = [], []
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
                times.append(self.diffusion.draw_times(limit, pixels, generator))
                noises.append(torch.randn(shape, generator=generator))
            t, noise = torch.cat(times), torch.cat(noises)
            clean = self.scale.sample_posterior(stored[:, 0], stored[:, 1], torch.cat(posteriors))
            patch_places = torch.from_numpy(np.stack([places[member] for member in members]))
            inputs.append(ImageInputs(self.diffusion.add_noise(clean, noise, t), t, patch_places))
            target = self.diffusion.targets(clean, noise, t)
            weights = self.diffusion.loss_weights(t, self.weighting)
            truths.append(ImageTruth(target, weights, self.diffusion.noise_errors(t)))
        return tuple(inputs), tuple(truths)


class _Layout:
    """The flat line: documents sorted by rounded length; for each element its row, column and place in the document."""

    def __init__(self, documents: IntArray, entries: IntArray, slots: IntArray) -> None:
        rounded = -(-documents[:, 2] // LENGTH_STEP) * LENGTH_STEP
        order = np.argsort(rounded, kind="stable")
        self.documents, self.lengths = documents[order], rounded[order]
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.num_elements = int(self.starts[-1])
        # A row may stand twice in a batch (at an epoch's border), so a document is known by its slot and its entry.
        self._num_entries = int(entries.max()) + 1
        keys = (slots * self._num_entries + entries)[order]
        self._key_order = np.argsort(keys)
        self._keys = keys[self._key_order]
        self.owner = owner = np.repeat(np.arange(len(order)), self.lengths)
        self.position = np.arange(self.num_elements) - self.starts[owner]
        length = self.documents[owner, 2]
        self.inside = self.position < length
        self.has_next = self.position < length - 1
        self.row = self.documents[owner, 0]
        self.column = np.where(self.inside, self.documents[owner, 1] + self.position, 0)
        self.dropped = self.documents[owner, 4] == 1

    def owners(self, entries: IntArray, slots: IntArray) -> IntArray:
        """Where in this layout the documents with these entries of the table are."""
        return self._key_order[np.searchsorted(self._keys, slots * self._num_entries + entries)]

    def leads(self, images: IntArray, owners: IntArray) -> BoolArray:
        """Whether an image begins its document: only marks stand before it. Where that is so because a caption was dropped,
        it does not count: such a document teaches drawing."""
        documents = self.documents[owners]
        at_start = images[:, 1] - documents[:, 1] <= 2  # BOS and BOI
        first: BoolArray = at_start & (documents[:, 5] == 1) & (documents[:, 4] == 0)
        return first

    def places(self, image: IntArray, owner: int) -> IntArray:
        """Flat places of an image's patches, raster order."""
        first = self.starts[owner] + image[1] - self.documents[owner, 1]
        return np.arange(first, first + image[2])

    def elements(self, image_of_element: IntArray, bidirectional: bool) -> Elements:
        groups = []
        for length in np.unique(self.lengths):
            members = np.nonzero(self.lengths == length)[0]
            first = int(self.starts[members[0]])
            own = image_of_element[first : first + len(members) * int(length)].reshape(len(members), int(length))
            mask = group_mask(torch.from_numpy(own), bidirectional=bidirectional)
            groups.append((first, len(members), int(length), mask))
        documents, images = torch.from_numpy(self.owner), torch.from_numpy(image_of_element)
        return Elements(documents, images, GroupedAttention(tuple(groups)), bidirectional)


def _spans(offsets: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Entries of a table that belong to `rows`, in their order, and the place of each entry's row among `rows`."""
    entries = [np.arange(offsets[row], offsets[row + 1]) for row in rows]
    return np.concatenate(entries), np.repeat(np.arange(len(rows)), [len(part) for part in entries])
