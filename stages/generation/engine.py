"""The decode loop: write text until BOI, denoise an image in place, read it once more clean, write on (paper, section 3).

Many prompts run at once, each in its own phase: all that write take one token together; when none writes any more, all
that wait for an image denoise together. Every random draw is named by (seed, prompt index, place), never by the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.core.runtime import Runtime
from stages.core.seeds import torch_generator
from stages.diffusion.guidance import guided
from stages.diffusion.samplers import answered
from stages.generation.cache import CachedAttention, KeyValueCache
from stages.generation.config import GenerationConfig
from stages.generation.prompts import (
    Denoised,
    Ended,
    Event,
    ImageBegun,
    ImageDone,
    ImagePiece,
    Output,
    Prompt,
    TextAdded,
    TextPiece,
    collect,
)
from stages.model.transformer import ImageInputs, Inputs, Outputs

if TYPE_CHECKING:
    from stages.coders.text import TextCoder
    from stages.generation.loading import LoadedModel


@dataclass
class _Document:
    """A prompt while it grows. slot: its place in the cache (the unconditional branch is at slot + batch)."""

    index: int
    slot: int
    prompt: Prompt
    ids: list[int] = field(default_factory=list)  # the run of text being written
    next_id: int = -1  # the element to feed next
    images: int = 0


class Engine:
    """Generates with one loaded model and one set of options."""

    def __init__(self, loaded: LoadedModel, config: GenerationConfig, seed: int, runtime: Runtime) -> None:
        self.loaded, self.config, self.seed, self.runtime = loaded, config, seed, runtime
        self.model, self.text, self.device = loaded.model, loaded.text, loaded.device
        _, height, width = loaded.latent_shape
        self.num_patches = height * width // loaded.checkpoint.content.patch_side**2
        self.events: list[Event] = []
        self.forbidden = [self.text.pad, self.text.bos, self.text.eoi]  # the sampler, not the model, writes EOI

    def generate(self, prompts: Iterable[Prompt], first_index: int = 0) -> list[Output]:
        """Outputs in the order of the prompts. first_index: the number of the first prompt, for the random draws."""
        return collect(self.stream(prompts, first_index), first_index)

    @torch.inference_mode()
    def stream(self, prompts: Iterable[Prompt], first_index: int = 0, *, steps: bool = False) -> Iterator[Event]:
        """What happens, as it happens; events of different prompts alternate, those of one prompt are in order.

        steps: report each denoising step too. first_index: as of `generate`.
        """
        waiting, index, self.steps = iter(prompts), first_index, steps
        while batch := list(islice(waiting, self.config.batch_size)):
            for _ in self._generate_batch(batch, index):
                yield from self.events
                self.events.clear()
            yield from self.events
            self.events.clear()
            index += len(batch)

    def _generate_batch(self, prompts: list[Prompt], first_index: int) -> Iterator[None]:
        # The engine's next form takes these; until then nothing sets them.
        assert all((p.size, p.negative, p.stop, p.edit) == (None, "", (), None) for p in prompts)
        documents = [_Document(first_index + slot, slot, prompt) for slot, prompt in enumerate(prompts)]
        self._prefill(documents)
        writing = [document for document in documents if document.next_id not in (-1, self.text.boi)]
        waiting = [document for document in documents if document.next_id == self.text.boi]
        while writing or waiting:
            self.runtime.interrupts.check("nothing of this batch was kept")
            yield
            if writing:
                self._write(writing)
            else:
                self._draw(waiting)
                writing, waiting = waiting, []
            waiting += [document for document in writing if document.next_id == self.text.boi]
            writing = [document for document in writing if document.next_id not in (-1, self.text.boi)]

    def _prefill(self, documents: list[_Document]) -> None:
        """Run the prompts through the model, and [bos, boi] through the unconditional branch; choose the first element."""
        patch_side = self.loaded.checkpoint.content.patch_side
        lines = [_Line.of(document.prompt, self.text, patch_side) for document in documents]
        config = self.model.config
        count = len(documents)
        slots = 2 * count if self.config.guidance != 1 else count
        places = max(self._most_places(line, document) for line, document in zip(lines, documents, strict=True))
        self.cache = KeyValueCache(
            config.layers, slots, config.heads, places, config.width // config.heads, self.device
        )
        hidden_bTD = self._feed(list(range(count)), lines)
        if self.config.guidance != 1:
            empty = _Line([self.text.bos, self.text.boi], [-1, -1], [])
            self._feed(list(range(count, 2 * count)), [empty] * count)
        last = torch.stack([hidden_bTD[row, len(line.ids) - 1] for row, line in enumerate(lines)])
        self._choose([document for document in documents if not document.prompt.draw], last, documents)
        for document in documents:
            if document.prompt.draw:
                document.next_id = self.text.boi

    def _most_places(self, line: _Line, document: _Document) -> int:
        """How long a document can become within its limits."""
        images = document.prompt.max_images
        return len(line.ids) + (images + 1) * (self.config.max_text_tokens + 1) + images * (self.num_patches + 2)

    def _feed(self, slots: list[int], lines: list[_Line]) -> Tensor:
        """Append whole lines (text and clean images, ragged) to the slots; returns hidden states (b, T, D)."""
        longest = max(len(line.ids) for line in lines)
        count = len(lines)
        starts = torch.tensor([self.cache.lengths[slot] for slot in slots], device=self.device)
        places_bT = starts[:, None] + torch.arange(longest, device=self.device)
        images_bT = torch.full((count, longest), -1, device=self.device)
        ids_bT = torch.full((count, longest), self.text.pad, device=self.device)
        for row, line in enumerate(lines):
            images_bT[row, : len(line.ids)] = torch.tensor(line.images, device=self.device)
            ids_bT[row, : len(line.ids)] = torch.tensor(line.ids, device=self.device)
        flat = torch.arange(count * longest, device=self.device).unflatten(0, (count, longest))
        text_places = flat[images_bT < 0]
        latents = [latent for line in lines for latent in line.latents]
        pictures = self._clean_images(lines, images_bT, flat)
        inputs = Inputs(places_bT.flatten(), ids_bT.flatten()[text_places], text_places, pictures)
        allow = torch.arange(int(places_bT.max()) + 1, device=self.device) <= places_bT[:, :, None]
        same = (images_bT[:, :, None] == images_bT[:, None, :]) & (images_bT[:, :, None] >= 0)
        if self.model.config.image_attention == "bidirectional" and latents:
            columns = places_bT[:, None, :].expand(-1, longest, -1)
            allow = allow.scatter(2, columns, allow.gather(2, columns) | same)
        hidden = self._run(inputs, slots, places_bT, allow).hidden_ND
        for slot, line in zip(slots, lines, strict=True):
            self.cache.lengths[slot] += len(line.ids)
        grown: Tensor = hidden.unflatten(0, places_bT.shape)
        return grown

    def _run(self, inputs: Inputs, slots: list[int], places_bT: Tensor, allow_bTM: Tensor) -> Outputs:
        attention = CachedAttention(self.cache, torch.tensor(slots, device=self.device), places_bT, allow_bTM[:, None])
        outputs: Outputs = self.model.hidden(inputs, attention)
        return outputs

    def _write(self, documents: list[_Document]) -> None:
        """Feed each document's next token and choose the one after it."""
        slots = [document.slot for document in documents]
        hidden = self._feed(slots, [_Line([document.next_id], [-1], []) for document in documents])
        for document in documents:
            if document.next_id != self.text.eoi:
                document.ids.append(document.next_id)
        self._choose(documents, hidden[:, 0], documents)

    def _choose(self, chosen: list[_Document], hidden_bD: Tensor, rows: list[_Document]) -> None:
        """Set next_id of the documents in `chosen`: a token, BOI, or -1 where the document ends. hidden rows: `rows`."""
        logits = self.model.text_head(hidden_bD).float()
        logits[:, self.forbidden] = -torch.inf
        row_of = {document.slot: row for row, document in enumerate(rows)}
        for document in chosen:
            token = self._sample(logits[row_of[document.slot]], document)
            room = self.cache.places - self.cache.lengths[document.slot]
            if token == self.text.eos:
                self._finish(document, "eos")
            elif token == self.text.boi and document.images >= document.prompt.max_images:
                self._finish(document, "images")
            elif token != self.text.boi and len(document.ids) >= self.config.max_text_tokens:
                self._finish(document, "text")
            elif room < (self.num_patches + 2 if token == self.text.boi else 1):
                self._finish(document, "length")
            else:
                document.next_id = token
                if token == self.text.boi:
                    self._close_text(document)

    def _sample(self, logits_V: Tensor, document: _Document) -> int:
        """Greedy, or a draw named by the document's index and place (temperature, nucleus)."""
        if self.config.temperature == 0:
            return int(logits_V.argmax())
        probabilities, order = torch.softmax(logits_V / self.config.temperature, -1).sort(descending=True, stable=True)
        keep = probabilities.cumsum(0) - probabilities < self.config.top_p
        total = (probabilities * keep).cumsum(0)
        place = self.cache.lengths[document.slot]
        draw = torch.rand((), generator=torch_generator(self.seed, "token", document.index, place)).item()
        choice = int(torch.searchsorted(total, total.new_tensor(draw) * total[-1], right=True))
        return int(order[min(choice, int(keep.sum()) - 1)])

    def _close_text(self, document: _Document) -> None:
        if document.ids:
            self.events.append(TextAdded(document.index, self.text.decode(document.ids)))
            document.ids = []

    def _finish(self, document: _Document, reason: str) -> None:
        self._close_text(document)
        self.events.append(Ended(document.index, reason))
        document.next_id = -1

    def _draw(self, documents: list[_Document]) -> None:
        """Feed BOI, denoise the patches in place, run the finished image once more clean (t = 0), then feed EOI."""
        slots = [document.slot for document in documents]
        size = self.loaded.latent_shape[1:]
        self.events.extend(ImageBegun(document.index, document.images, size) for document in documents)
        self._feed(slots, [_Line([self.text.boi], [-1], []) for _ in documents])
        shape = self.loaded.latent_shape
        generators = [torch_generator(self.seed, "image", document.index, document.images) for document in documents]

        def draw_noise() -> Tensor:
            return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(self.device)

        def denoise(x_t: Tensor, t: int) -> Tensor:
            self.runtime.interrupts.check("nothing of this batch was kept")
            if self.config.guidance == 1:
                return told(self._predict(slots, x_t, t), t)
            both = self._predict(
                [*slots, *(slot + len(self.cache.lengths) // 2 for slot in slots)], x_t.repeat(2, 1, 1, 1), t
            )
            conditional, unconditional = both.chunk(2)
            return told(guided(conditional, unconditional, self.config.guidance), t)

        def told(clean: Tensor, t: int) -> Tensor:
            if self.steps:
                pairs = zip(documents, clean, strict=True)
                self.events.extend(Denoised(document.index, document.images, t, each) for document, each in pairs)
            return clean

        limit = self.loaded.checkpoint.content.latent_limit
        walk = self.config.sampler.walk(draw_noise(), self.loaded.diffusion, draw_noise, limit)
        latents = answered(walk, denoise)
        for document, latent in zip(documents, latents, strict=True):
            self.events.append(ImageDone(document.index, document.images, ImagePiece(latent)))
            document.images += 1
        marks = [0] * self.num_patches
        self._feed(slots, [_Line([self.text.pad] * self.num_patches, marks, [latent]) for latent in latents])
        for document in documents:
            document.next_id = self.text.eoi
            if document.prompt.draw and document.prompt.max_images == 1:
                self._finish(document, "images")  # a prompt that asks for one drawing ends with it

    def _clean_images(self, lines: list[_Line], images_bT: Tensor, flat_bT: Tensor) -> tuple[ImageInputs, ...]:
        """The images of the lines at t = 0, one entry for each size."""
        by_size: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for row, line in enumerate(lines):
            for number, latent in enumerate(line.latents):
                by_size.setdefault(latent.shape, []).append((latent, flat_bT[row][images_bT[row] == number]))
        return tuple(
            ImageInputs(
                torch.stack([latent for latent, _ in found]).to(self.device),
                torch.zeros(len(found), dtype=torch.long, device=self.device),
                torch.stack([places for _, places in found]),
            )
            for found in by_size.values()
        )

    def _predict(self, slots: list[int], x_t: Tensor, t: int) -> Tensor:
        """Predicted clean latents of the images that stand behind the final elements of `slots`; overwrites their last state."""
        starts = torch.tensor([self.cache.lengths[slot] for slot in slots], device=self.device)
        places_bP = starts[:, None] + torch.arange(self.num_patches, device=self.device)
        flat = torch.arange(places_bP.numel(), device=self.device).unflatten(0, tuple(places_bP.shape))
        times = torch.full((len(slots),), t, device=self.device)
        image = ImageInputs(x_t, times, flat)
        nothing = torch.zeros(0, dtype=torch.long, device=self.device)
        inputs = Inputs(places_bP.flatten(), nothing, nothing, (image,))
        columns = torch.arange(int(places_bP.max()) + 1, device=self.device)
        if self.model.config.image_attention == "bidirectional":
            allow = (columns < (starts + self.num_patches)[:, None])[:, None, :].expand(-1, self.num_patches, -1)
        else:
            allow = columns <= places_bP[:, :, None]
        (output,) = self.model.image_outputs(self._run(inputs, slots, places_bP, allow))
        return self.loaded.diffusion.to_clean(output, x_t, t)


@dataclass(frozen=True)
class _Line:
    """Elements to append to a document: ids, the number of the image each belongs to (-1: text), and the clean latents."""

    ids: list[int]
    images: list[int]
    latents: list[Tensor]

    @staticmethod
    def of(prompt: Prompt, text: TextCoder, patch_side: int) -> _Line:
        """bos, then the prompt's pieces, each image, whatever its size, between BOI and EOI."""
        ids: list[int] = [text.bos]
        images = [-1]
        latents: list[Tensor] = []
        for piece in prompt.pieces:
            if isinstance(piece, TextPiece):
                new = text.encode(piece.text)
                ids += new
                images += [-1] * len(new)
            else:
                _, height, width = piece.latent.shape
                num_patches = height * width // patch_side**2
                ids += [text.boi, *[text.pad] * num_patches, text.eoi]
                images += [-1, *[len(latents)] * num_patches, -1]
                latents.append(piece.latent)
        return _Line(ids, images, latents)
