"""The decode loop: write text until BOI, denoise an image in place, read it once more clean, write on (paper, section 3).

Many prompts run at once, each in its own phase: all that write take one token together; when none writes any more, all
that wait for an image denoise together; one that ends leaves its place to the next prompt. Every random draw is named by
(seed, prompt index, place), never by the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice

import torch
from torch import Tensor

from stages.core.errors import ExitCode, TfcliError
from stages.core.runtime import Runtime
from stages.generation.branches import branches_of, longest
from stages.generation.config import GenerationConfig
from stages.generation.denoising import Drawing
from stages.generation.kv_cache import CachedAttention, KeyValueCache, Row
from stages.generation.layout import Line, LineMaker, inputs_of, mask_of
from stages.generation.loading import LoadedModel
from stages.generation.prompts import (
    Ended,
    Event,
    ImageDone,
    ImagePiece,
    Output,
    Prompt,
    Size,
    TextAdded,
    TextPiece,
    collect,
)
from stages.generation.state import Document, TextRun
from stages.generation.token_sampling import Place, choose
from stages.model.cpu.inference import key_value_dtype

_SPARE_PLACES = 64  # that a cache has at first, beside prompts and an image


class Engine:
    """Generates with one loaded model and one set of options."""

    def __init__(self, loaded: LoadedModel, config: GenerationConfig, seed: int, runtime: Runtime) -> None:
        self.loaded, self.config, self.seed, self.runtime = loaded, config, seed, runtime
        self.model, self.text, self.device = loaded.model, loaded.text, loaded.device
        self.patch_side = loaded.checkpoint.content.patch_side
        self.row_length = loaded.checkpoint.content.row_length
        self.branches = branches_of(config.guided_by())
        self.lines = LineMaker(self.text, self.patch_side, loaded.size_ids)
        self.told_sizes = {token: size for size, token in loaded.size_ids.items()}
        self.size = (
            None if config.height is None or config.width is None else loaded.latent_size(config.height, config.width)
        )
        if self.size is not None and self.lines.places(self.size) >= self.row_length:
            raise TfcliError(
                f"pictures of {config.width}x{config.height} take {self.lines.places(self.size):,} places",
                why=f"the model was trained on rows of {self.row_length:,}",
                fix="set a smaller height and width",
                code=ExitCode.USAGE,
            )
        # The sampler, not the model, writes EOI, and BOI where sizes are told before it; the others are never written.
        never = [self.text.pad, self.text.bos, self.text.eoi, *([self.text.boi] if self.told_sizes else [])]
        forbidden = torch.zeros(self.model.dims.vocab_size, device=self.device)
        self.any_V = forbidden.index_fill(0, torch.tensor(never, device=self.device), -torch.inf)
        drawing = torch.tensor([self.text.boi, *self.told_sizes], device=self.device)
        self.text_V = self.any_V.index_fill(0, drawing, -torch.inf)
        self.sizes_V = (forbidden - torch.inf).index_fill(0, drawing[1:], 0.0)

    def generate(self, prompts: Sequence[Prompt], numbers: Sequence[int] | None = None) -> list[Output]:
        """Outputs in the order of the prompts. numbers: as of `stream`."""
        outputs = collect(self.stream(prompts, numbers))
        return [outputs[number] for number in (range(len(prompts)) if numbers is None else numbers)]

    @torch.inference_mode()
    def stream(
        self, prompts: Iterable[Prompt], numbers: Iterable[int] | None = None, *, steps: bool = False
    ) -> Iterator[Event]:
        """What happens, as it happens; events of different prompts alternate, those of one prompt are in order.

        prompts: taken as places become free. numbers: their numbers in events and random draws, 0, 1, ... by default; a
        prompt with its number has the same output in any batch and order. steps: report each denoising step too.
        """
        self.steps = steps
        waiting = zip(count() if numbers is None else numbers, prompts, strict=False)
        new = list(islice(waiting, self.config.batch_size))
        if not new:
            return
        free = [
            {branch: number + len(new) * place for place, branch in enumerate(self.branches)}
            for number in range(len(new))
        ]
        running: list[Document] = []
        first = True
        while new or running:
            self.runtime.interrupts.check("nothing of this batch was kept")
            if new:
                joined = [
                    Document(index, free.pop(0), prompt, TextRun(self.text, (*prompt.stop, *self.config.stop)))
                    for index, prompt in new
                ]
                yield from self._begin(joined, first=first)
                running += joined
                first = False
            elif writing := [document for document in running if document.writes]:
                yield from self._write(writing)
            else:
                yield from self._draw([document for document in running if document.waits])
            free += [document.slots for document in running if document.ended]
            running = [document for document in running if not document.ended]
            new = list(islice(waiting, len(free)))

    def _begin(self, documents: list[Document], *, first: bool) -> Iterator[Event]:
        """Run the prompts, and what guidance compares them with, through the model; choose what comes next."""
        others: list[tuple[int, Line]] = []
        begun, lines, slots = [], [], []
        for document in documents:
            prompt = document.prompt
            size_of_training = None if self.told_sizes else self.loaded.latent_shape[1:]
            document.fixed = prompt.size or self.size or size_of_training
            document.size = document.wanted
            line = self.lines.line(prompt.pieces, document.size if prompt.draw else None)
            length = len(self.lines.line(prompt.pieces).ids)
            draws = document.size is not None and self._has_room(document, length, document.size)
            if length > self.row_length or (prompt.draw and document.size and not draws):
                yield from self._end(document, "length")
                continue
            begun.append(document)
            lines.append(line)
            slots.append(document.slots["full"])
            if self.config.repetition_penalty != 1:
                texts = [piece.text for piece in prompt.pieces if isinstance(piece, TextPiece)]
                document.seen = [token for text in texts for token in self.text.encode(text)]
            if draws and (prompt.max_images or prompt.draw):
                others += document.unread(self.branches, self.lines)
        if others:
            slots += [slot for slot, _ in others]
            lines += [line for _, line in others]
        if first:
            self._make_cache(len(documents), lines)
        if not begun:
            return
        last_BD = self._read(slots, lines)
        choosing = [number for number, d in enumerate(begun) if not (d.prompt.draw and d.size)]
        yield from self._choose([begun[number] for number in choosing], last_BD[choosing])

    def _make_cache(self, count: int, lines: list[Line]) -> None:
        config = self.model.config
        _, height, width = self.loaded.latent_shape
        places = (
            max((len(line.ids) for line in lines), default=0) + height * width // self.patch_side**2 + _SPARE_PLACES
        )
        like = torch.empty((), dtype=key_value_dtype(self.model), device=self.device)
        head_dim = config.width // config.heads
        self.cache = KeyValueCache(config.layers, count * len(self.branches), places, config.heads, head_dim, like)
        self.drawing = Drawing(self.loaded, self.config, self.seed, self.runtime, self.cache)

    def _read(self, slots: Sequence[int], lines: Sequence[Line]) -> Tensor:
        """Begin the sequences in `slots` anew with whole lines; as `_append`."""
        for slot in slots:
            self.cache.lengths[slot] = 0
        return self._append(slots, lines)

    def _append(self, slots: Sequence[int], lines: Sequence[Line]) -> Tensor:
        """Append whole lines to the sequences in `slots`; returns the last hidden state of each, (B, D)."""
        starts = [self.cache.lengths[slot] for slot in slots]
        self.cache.reserve(max(start + len(line.ids) for start, line in zip(starts, lines, strict=True)))
        bidirectional = self.model.config.image_attention == "bidirectional"
        rows = tuple(
            Row(
                slot,
                start,
                len(line.ids),
                mask_of(line, start, self.patch_side, self.device, bidirectional=bidirectional),
            )
            for slot, start, line in zip(slots, starts, lines, strict=True)
        )
        inputs = inputs_of(lines, starts, self.patch_side, self.device)
        hidden_ND = self.model.hidden(inputs, CachedAttention.of(self.cache, rows)).hidden_ND
        for row in rows:
            self.cache.lengths[row.slot] += row.count
        counts = torch.tensor([row.count for row in rows], device=self.device)
        return hidden_ND[counts.cumsum(0) - 1]

    def _write(self, documents: list[Document]) -> Iterator[Event]:
        """Feed each document's next element and choose the one after it; behind BOI an image comes."""
        fed = [document.next_id for document in documents]
        last_BD = self._append(
            [d.slots["full"] for d in documents], [Line((token,)) for token in fed if token is not None]
        )
        choosing = []
        for number, (document, token) in enumerate(zip(documents, fed, strict=True)):
            if token == self.text.boi:
                document.next_id = None
            elif token in self.told_sizes:
                document.next_id = self.text.boi
            else:
                choosing.append(number)
        yield from self._choose([documents[number] for number in choosing], last_BD[choosing])

    def _choose(self, documents: list[Document], hidden_BD: Tensor) -> Iterator[Event]:
        """Set next_id of each document: a token or BOI, or end it."""
        if not documents:
            return
        logits_BV = self.model.text_head(hidden_BD).float()
        logits_BV += torch.stack([self._allowed_V(document) for document in documents])
        places = [Place(d.index, self.cache.lengths[d.slots["full"]], d.seen) for d in documents]
        tokens = choose(logits_BV, places, self.config, self.seed)
        for document, place, token in zip(documents, places, tokens, strict=True):
            if token == self.text.eos:
                yield from self._end(document, "eos")
            elif token == self.text.boi or token in self.told_sizes:
                if document.images >= max(document.prompt.max_images, int(_must_draw(document))):
                    yield from self._end(document, "images")
                else:
                    size = document.wanted or self.told_sizes[token]
                    if not self._has_room(document, place.place, size):
                        yield from self._end(document, "length")
                        continue
                    document.size, document.next_id = size, self.lines.opening(size)[0]
                    yield from _told(document, document.run.close())
            elif len(document.run.ids) >= self.config.max_text_tokens:
                yield from self._end(document, "text")
            elif place.place >= self.row_length:
                yield from self._end(document, "length")
            else:
                document.next_id = token
                document.seen.append(token)
                yield from _told(document, document.run.add(token))
                if document.run.stopped:
                    yield from self._end(document, "stop")

    def _allowed_V(self, document: Document) -> Tensor:
        """0 for what may come next, -inf else: a size where one must be chosen, no image where none is wanted."""
        if _must_draw(document):
            return self.sizes_V
        return self.any_V if document.prompt.max_images else self.text_V

    def _has_room(self, document: Document, length: int, size: Size) -> bool:
        """Whether an image of that size behind so many elements ends within a row of the training, as do its branches."""
        pieces = (*document.prompt.pieces, *map(ImagePiece, document.latents))
        negative = document.prompt.negative
        return longest(length, self.branches, pieces, negative, size, self.lines) <= self.row_length

    def _end(self, document: Document, reason: str) -> Iterator[Event]:
        yield from _told(document, document.run.close())
        document.next_id, document.ended = None, True
        yield Ended(document.index, reason)

    def _draw(self, documents: list[Document]) -> Iterator[Event]:
        """Denoise the images, run each once more clean (t = 0) with EOI behind it, and choose what comes next."""
        others = [found for document in documents for found in document.unread(self.branches, self.lines)]
        if others:
            self._read([slot for slot, _ in others], [line for _, line in others])
        yield from self.drawing.draw(documents, steps=self.steps)
        for document in documents:
            yield ImageDone(document.index, document.images, ImagePiece(document.latents[-1]))
            document.images += 1
            if document.prompt.draw and document.prompt.max_images == 1:
                yield from self._end(document, "drawn")  # a prompt that asks for one drawing ends with it
        going = [document for document in documents if not document.ended]
        if going:
            yield from self._choose(going, self._read_images(going))

    def _read_images(self, documents: list[Document]) -> Tensor:
        lines = [self.lines.finished(document.latents[-1]) for document in documents]
        return self._append([document.slots["full"] for document in documents], lines)


def _must_draw(document: Document) -> bool:
    """Whether its prompt asks for an image whose size the model chooses now."""
    return document.prompt.draw and document.size is None and not document.images


def _told(document: Document, text: str) -> Iterator[Event]:
    if text:
        yield TextAdded(document.index, text)
