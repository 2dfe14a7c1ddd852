"""Packed rows -> flat batches for the model: documents sorted by length, targets, noised latents and what the mask follows from.

The rows of step s are a pure function of (seed, s), and the noise of a row is one of (seed, s, its index in the batch). So the
result depends neither on micro-batches nor on workers, and a resumed run draws the same numbers as one without a stop.

Rows on disk hold each image once. With diffusion.context_images = "clean", a clean copy of each image that later text depends on
is inserted after its noised patches, with the same positions; with diffusion.noise_draws, further draws before them. Later
elements keep the positions that they have on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stages.artifacts.arrays import RowReader
from stages.artifacts.sequences import RowTable, SequencesContent
from stages.artifacts.tables import BoolArray, DocumentTable, ImageTable, IntArray
from stages.coders.scale import LatentScale
from stages.core.errors import ExitCode, TfcliError
from stages.core.seeds import numpy_generator
from stages.diffusion.process import Diffusion
from stages.diffusion.weighting import Weighting
from stages.model.attention import Attention, DenseAttention, FlexAttention, allowed, group_mask
from stages.model.cpu.attention import Group, GroupedAttention
from stages.model.transformer import ImageInputs, Inputs
from stages.train_model.config import Kernel
from stages.train_model.images import BatchImages, ImageMaker, ImageTruth, RowKey
from stages.train_model.layout import Layout


@dataclass(frozen=True)
class Elements:
    """What the attention mask follows from.

    Args:
        documents_N: document of each element, numbered within the batch.
        images_N: image of each element, numbered within the batch; -1 outside images.
        groups: the grouped kernel over documents of one length.
        bidirectional: whether patches of an image attend to each other in both directions.
        private_N: True for patches that only their own image sees; None: there are none.
    """

    documents_N: Tensor
    images_N: Tensor
    groups: GroupedAttention
    bidirectional: bool
    private_N: Tensor | None = None

    def attention(self, kernel: Kernel, device: torch.device) -> Attention:
        """The kernel over these elements, on their device. "auto": grouped on CPU, flex on CUDA. Raises TfcliError (USAGE)
        for "flex" on CPU, which has no backward pass."""
        if kernel == "flex" and device.type == "cpu":
            why, fix = "FlexAttention has no backward pass on CPU", "leave train.attention at auto"
            raise TfcliError('train.attention = "flex" needs CUDA', why=why, fix=fix, code=ExitCode.USAGE)
        elements = (self.documents_N, self.images_N, self.private_N)
        if kernel == "dense":
            return DenseAttention(allowed(*elements, bidirectional=self.bidirectional))
        if kernel == "flex" or (kernel == "auto" and device.type == "cuda"):
            return FlexAttention.build(*elements, bidirectional=self.bidirectional)
        return self.groups

    def map(self, move: Callable[[Tensor], Tensor]) -> Elements:
        """A copy with `move` applied to each tensor."""
        return Elements(
            move(self.documents_N),
            move(self.images_N),
            GroupedAttention(tuple(group.map(move) for group in self.groups.groups)),
            self.bidirectional,
            None if self.private_N is None else move(self.private_N),
        )


@dataclass(frozen=True)
class Batch:
    """What one forward pass needs.

    Args:
        inputs: of the model.
        elements: what the mask follows from.
        attention: the kernel, with the mask.
        loss_index: int64, indices of the elements whose next element is a text target.
        targets: int64, the ids of those next elements, as many as loss_index.
        target_weights: weight of each of them in the training loss, float32; None: all count the same.
        images: the truth for each entry of inputs.images.
        num_elements: number of elements, copies of images included, without padding.
        squared_lengths: sum over the documents of the square of their elements, without padding.
    """

    inputs: Inputs
    elements: Elements
    attention: Attention
    loss_index: Tensor
    targets: Tensor
    images: tuple[ImageTruth, ...]
    num_elements: int
    squared_lengths: int
    target_weights: Tensor | None = None

    @property
    def num_images(self) -> int:
        """Images with a loss, each draw of one."""
        return sum(len(image.weights_I) for image in self.images)

    @property
    def num_context(self) -> int:
        """Images without a loss, which are only read: conditioning images and clean copies."""
        return sum(len(image.t_I) for image in self.inputs.context)

    def to(self, device: torch.device, kernel: Kernel = "auto") -> Batch:
        """The batch on `device`, with the attention kernel `kernel`."""
        moved = self
        if device.type == "cuda":
            moved = self.map(lambda value: value.pin_memory().to(device, non_blocking=True))
        return replace(moved, attention=moved.elements.attention(kernel, device))

    def emptied(self) -> Batch:
        """The batch without images and targets: its gradient is zero for every weight that it reaches. For a rank without rows,
        which must take part when weights are gathered."""
        inputs = replace(self.inputs, images=(), context=())
        return replace(
            self,
            inputs=inputs,
            loss_index=self.loss_index[:0],
            targets=self.targets[:0],
            target_weights=None if self.target_weights is None else self.target_weights[:0],
            images=(),
            num_elements=0,
            squared_lengths=0,
        )

    def map(self, move: Callable[[Tensor], Tensor]) -> Batch:
        """A copy with `move` applied to each tensor, and the grouped kernel."""
        inputs, elements = self.inputs, self.elements.map(move)
        images, context = (
            tuple(ImageInputs(move(i.latents_IChw), move(i.t_I), move(i.patch_index_IP)) for i in each)
            for each in (inputs.images, inputs.context)
        )
        return Batch(
            Inputs(move(inputs.positions_N), move(inputs.text_ids_T), move(inputs.text_index_T), images, context),
            elements,
            elements.groups,
            move(self.loss_index),
            move(self.targets),
            tuple(ImageTruth(move(i.target_IChw), move(i.weights_I), move(i.eps_mse_factor_I)) for i in self.images),
            self.num_elements,
            self.squared_lengths,
            None if self.target_weights is None else move(self.target_weights),
        )


@lru_cache(maxsize=2)  # of a hundred million rows it takes seconds
def _order(num_rows: int, seed: int, epoch: int) -> IntArray:
    return numpy_generator(seed, "rows", epoch).permutation(num_rows)


def rows_of_step(num_rows: int, batch_rows: int, seed: int, step: int) -> IntArray:
    """The rows of step `step` (from 0), shape (batch_rows,): consecutive batches of epochs, each shuffled on its own."""
    indices = np.arange(step * batch_rows, (step + 1) * batch_rows)
    rows = np.empty(batch_rows, dtype=np.int64)
    for epoch in np.unique(indices // num_rows):
        order = _order(num_rows, seed, int(epoch))
        of_epoch = indices // num_rows == epoch
        rows[of_epoch] = order[indices[of_epoch] % num_rows]
    return rows


class BatchMaker:
    """Makes batches from one side of Sequences and the latents that it refers to."""

    def __init__(
        self,
        table: RowTable,
        content: SequencesContent,
        latents: tuple[RowReader, ...],
        diffusion: Diffusion,
        *,
        noise_limit: int,
        weighting: Weighting,
        bidirectional: bool,
        clean_context: bool = False,
        limited_images: Literal["first", "read"] = "first",
        noise_draws: int = 1,
        stratified_times: bool = False,
        prompt_weight: float = 1.0,
    ) -> None:
        """
        Args:
            table: the packed rows of one side.
            content: of the Sequences: special tokens and latent statistics.
            latents: readers of the latent records, by grid.
            diffusion: the forward process.
            noise_limit: largest t of a limited image; 0: such an image is clean and has no loss.
            weighting: of the image loss by noise level.
            bidirectional: whether patches of an image attend to each other in both directions.
            clean_context: whether later elements read a clean copy of an image instead of its noised patches.
            limited_images: those that begin their document, or those whose noised patches later elements read.
            noise_draws: how often each image with a loss is in a batch, each time with its own t and eps.
            stratified_times: whether the times of a row's images and their draws cover their distribution evenly.
            prompt_weight: of the loss of text before the first image of its document.
        """
        self.table = table
        self.content = content
        self.num_steps = diffusion.num_steps
        self.noise_limit = min(noise_limit, diffusion.num_steps)
        self.bidirectional = bidirectional
        self.clean_context = clean_context
        self.limited_images = limited_images
        self.noise_draws = noise_draws
        self.prompt_weight = prompt_weight
        scale = LatentScale(content.channel_mean, content.channel_std)
        self.images = ImageMaker(latents, scale, diffusion, weighting, noise_draws, stratified_times)

    def make(self, rows: IntArray, keys: list[RowKey], seed: int) -> Batch:
        """The batch of `rows`, on CPU.

        Args:
            rows: indices into the table.
            keys: for each of the rows, what its random draws are derived from, together with the seed.
            seed: of the recipe.
        """
        images, layout = self._layout(rows)
        elements, is_text = self._elements(images, layout)
        ids = np.where(layout.is_real, self.table.ids[layout.row, layout.column], self.content.pad).astype(np.int64)
        has_loss = is_text & layout.has_next & (ids != self.content.boi) & ~layout.caption_dropped
        text_index = np.nonzero(is_text)[0]
        loss_index = np.nonzero(has_loss)[0]
        noised, context, truths = self.images.make(keys, seed, images, layout.patch_index)
        return Batch(
            inputs=Inputs(
                positions_N=torch.from_numpy(layout.position),
                text_ids_T=torch.from_numpy(ids[text_index]),
                text_index_T=torch.from_numpy(text_index),
                images=noised,
                context=context,
            ),
            elements=elements,
            attention=elements.groups,
            loss_index=torch.from_numpy(loss_index),
            targets=torch.from_numpy(ids[loss_index + 1]),
            images=truths,
            num_elements=int(layout.is_real.sum()),
            squared_lengths=layout.squared_lengths,
            target_weights=self._target_weights(layout, loss_index),
        )

    def _target_weights(self, layout: Layout, loss_index: IntArray) -> Tensor | None:
        """The weights of the text targets, which follow the elements `loss_index`. The marks that open an image count as all
        text: they are where the model decides to draw."""
        if self.prompt_weight == 1:
            return None
        opening = 1 + bool(self.content.size_ids())
        is_prompt = layout.position[loss_index] + 1 < layout.first_patch[loss_index] - opening
        return torch.from_numpy(np.where(is_prompt, self.prompt_weight, 1.0)).float()

    def _layout(self, rows: IntArray) -> tuple[BatchImages, Layout]:
        """The images of some rows and where every element of the batch is."""
        table = self.table
        entries, document_slots = _spans(table.row_documents, rows)
        documents = DocumentTable(table.documents[entries])
        entries, slots = _spans(table.row_images, rows)
        records = ImageTable(table.images[entries])
        # A row may be twice in a batch (at the border of an epoch), so documents are counted from the first of their slot.
        document_of_image = np.searchsorted(document_slots, slots) + records.entry - table.row_documents[rows[slots]]
        images = self._roles(records, slots, documents.take(document_of_image))
        return images, Layout(documents, records, document_of_image, images.num_draws, images.has_clean_copy)

    def _roles(self, records: ImageTable, slots: IntArray, own: DocumentTable) -> BatchImages:
        """The role of each image in its document. own: the document of each image."""
        eoi = records.start - own.start + records.patches
        limits_KI = np.full((self.noise_draws, len(records)), self.num_steps)
        if self.limited_images == "first":
            limits_KI[:, _is_first_image(records, own)] = self.noise_limit
        elif not self.clean_context:  # otherwise nothing reads noised patches
            last = self.table.ids[own.row, own.start + own.length - 1]
            end = own.length - 1 - (last == self.content.eos)
            limits_KI[0, eoi < end] = self.noise_limit  # later elements read the first draw
        is_conditioning = limits_KI[0] == 0
        has_clean_copy = np.zeros(len(records), dtype=bool)
        if self.clean_context:
            # Something reads an image if text is predicted after it: from its EOI on, where that is not the end of the
            # document. A document whose caption was dropped has one image and no text loss.
            has_clean_copy = ~is_conditioning & (eoi < own.length - 1) & (own.caption_dropped == 0)
        return BatchImages(records, slots, limits_KI, np.where(is_conditioning, 1, self.noise_draws), has_clean_copy)

    def _elements(self, images: BatchImages, layout: Layout) -> tuple[Elements, BoolArray]:
        """What the mask follows from, and which elements are text."""
        image_of_element = np.full(layout.num_elements, -1, dtype=np.int64)
        has_private = self.clean_context or self.noise_draws > 1
        private = np.zeros(layout.num_elements, dtype=bool) if has_private else None
        for number, index in enumerate(layout.patch_index):
            image_of_element[index] = number
            if private is not None:
                private[index] = self.clean_context and not images.is_conditioning[number]
                for draw in range(1, images.num_draws[number]):
                    image_of_element[index - draw * len(index)] = (draw + 1) * len(images.records) + number
                    private[index - draw * len(index)] = True
            if images.has_clean_copy[number]:
                image_of_element[index + len(index)] = len(images.records) + number
        elements = _grouped_elements(layout, image_of_element, private, self.bidirectional)
        return elements, layout.is_real & (image_of_element < 0)


def _grouped_elements(
    layout: Layout, image_of_element: IntArray, private: BoolArray | None, bidirectional: bool
) -> Elements:
    """What the mask follows from, with the groups of documents of one length."""
    groups = []
    images = torch.from_numpy(image_of_element)
    private_N = None if private is None else torch.from_numpy(private)
    for length in np.unique(layout.lengths):
        members = np.nonzero(layout.lengths == length)[0]
        first, shape = int(layout.starts[members[0]]), (len(members), int(length))
        span = slice(first, first + shape[0] * shape[1])
        group_private = None if private_N is None else private_N[span].view(shape)
        mask = group_mask(images[span].view(shape), group_private, bidirectional=bidirectional)
        groups.append(Group.of(first, mask))
    attention = GroupedAttention(tuple(groups))
    return Elements(torch.from_numpy(layout.document), images, attention, bidirectional, private_N)


def _is_first_image(images: ImageTable, own: DocumentTable) -> BoolArray:
    """Whether an image begins its document (own): only special tokens are before it. An image is not first where a dropped
    caption was before it: such a document trains unconditional generation."""
    # BOS, BOI, and with size tokens the size; a second image never begins this early
    at_start = images.start - own.start <= 3
    first: BoolArray = at_start & (own.image_first == 1) & (own.caption_dropped == 0)
    return first


def _spans(offsets: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Entries of a table that belong to `rows`, in their order, and the index of each entry's row in `rows`."""
    entries = [np.arange(offsets[row], offsets[row + 1]) for row in rows]
    return np.concatenate(entries), np.repeat(np.arange(len(rows)), [len(span) for span in entries])
