"""The decode loop: write text until BOI, denoise an image in place, read it once more clean, write on (paper, section 3).

Many prompts run at once, each in its own phase: all that write take one token together; when none writes any more, all
that wait for an image denoise together; the slots of one that ends go to the next prompt. Every random draw is named by
(seed, prompt index, position), never by the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice

import torch
from torch import Tensor

from stages.core.errors import ExitCode, TfcliError
from stages.core.runtime import Runtime
from stages.generation.branches import branches_of, longest_branch
from stages.generation.config import GenerationConfig
from stages.generation.denoising import Denoiser
from stages.generation.kv_cache import CachedAttention, CacheSegment, KeyValueCache
from stages.generation.layout import SequenceBuilder, TokenSequence, build_inputs, build_mask
from stages.generation.loading import LoadedModel
from stages.generation.prompts import (
    Ended,
    GenerationEvent,
    ImageDone,
    ImagePiece,
    Output,
    Prompt,
    Size,
    TextAdded,
    TextPiece,
    collect,
)
from stages.generation.state import DocumentState, TextRun
from stages.generation.token_sampling import TokenPosition, sample_tokens
from stages.model.cpu.inference import key_value_dtype

_SPARE_CAPACITY = 64  # elements that a cache has memory for in addition to prompts and an image


class Engine:
    """Generates with one loaded model and one set of options. It keeps nothing of a stream, so that several may run."""

    def __init__(self, loaded: LoadedModel, config: GenerationConfig, seed: int, runtime: Runtime) -> None:
        """Raises TfcliError (USAGE) where images of the config's size are longer than the rows of the training."""
        self.loaded, self.config, self.seed, self.runtime = loaded, config, seed, runtime
        self.row_length = loaded.checkpoint.content.row_length
        self.branches = branches_of(config.guidance_settings())
        self.builder = SequenceBuilder(loaded.text, loaded.checkpoint.content.patch_side, loaded.size_ids)
        self.size_of_id = {token: size for size, token in loaded.size_ids.items()}
        self.size = (
            None if config.height is None or config.width is None else loaded.latent_size(config.height, config.width)
        )
        if self.size is not None and self.builder.num_elements(self.size) >= self.row_length:
            raise TfcliError(
                f"pictures of {config.width}x{config.height} take {self.builder.num_elements(self.size):,} tokens",
                why=f"the model was trained on rows of {self.row_length:,}",
                fix="set a smaller height and width",
                code=ExitCode.USAGE,
            )
        # The engine, not the model, appends EOI, and BOI after a size token; pad and BOS are never generated.
        text = loaded.text
        never = [text.pad, text.bos, text.eoi, *([text.boi] if self.size_of_id else [])]
        zeros_V = torch.zeros(loaded.model.dims.vocab_size, device=loaded.device)
        opening = torch.tensor([text.boi, *self.size_of_id], device=loaded.device)
        # added to the logits: what may come next at all, where no image may, and where a size must
        self.any_V = zeros_V.index_fill(0, torch.tensor(never, device=loaded.device), -torch.inf)
        self.text_V = self.any_V.index_fill(0, opening, -torch.inf)
        self.sizes_V = (zeros_V - torch.inf).index_fill(0, opening[1:], 0.0)

    def generate(self, prompts: Sequence[Prompt], numbers: Sequence[int] | None = None) -> list[Output]:
        """Outputs in the order of the prompts. numbers: see `stream`."""
        outputs = collect(self.stream(prompts, numbers))
        return [outputs[number] for number in (range(len(prompts)) if numbers is None else numbers)]

    @torch.inference_mode()
    def stream(
        self, prompts: Iterable[Prompt], numbers: Iterable[int] | None = None, *, steps: bool = False
    ) -> Iterator[GenerationEvent]:
        """What happens, as it happens; events of different prompts alternate, those of one prompt are in order.

        prompts: the next one is taken when a document ends. numbers: their numbers in events and random draws, 0, 1, ... by
        default; a prompt with its number has the same output in any batch and order. steps: report each denoising step as
        well.
        """
        waiting = zip(count() if numbers is None else numbers, prompts, strict=False)
        new = list(islice(waiting, self.config.batch_size))
        if not new:
            return
        decoder = Decoder(self, len(new), report_steps=steps)
        running: list[DocumentState] = []
        while new or running:
            self.runtime.interrupts.check("nothing of this batch was kept")
            if new:
                started = [decoder.document(index, prompt) for index, prompt in new]
                yield from decoder.start(started)
                running += started
            elif writing := [document for document in running if document.is_writing]:
                yield from decoder.write(writing)
            else:
                yield from decoder.denoise([document for document in running if document.waits_for_image])
            decoder.free_slots += [document.slots for document in running if document.ended]
            running = [document for document in running if not document.ended]
            new = list(islice(waiting, len(decoder.free_slots)))

    def allowed_V(self, document: DocumentState) -> Tensor:
        """Added to the logits, (V,): 0 for ids that may come next, -inf for all others."""
        if _must_choose_size(document):
            return self.sizes_V
        return self.any_V if document.prompt.max_images else self.text_V

    def has_room(self, document: DocumentState, length: int, size: Size) -> bool:
        """Whether an image of that size after `length` elements ends within a row of the training, in all branches."""
        pieces = (*document.prompt.pieces, *map(ImagePiece, document.latents))
        negative = document.prompt.negative
        return longest_branch(length, self.branches, pieces, negative, size, self.builder) <= self.row_length


class Decoder:
    """One stream of an engine: its cache, and the steps that change its documents.

    free_slots: those of documents that are not running, by branch.
    """

    def __init__(self, engine: Engine, num_documents: int, *, report_steps: bool) -> None:
        """num_documents: that run at the same time. report_steps: yield an event for each denoising step."""
        self.engine, self.report_steps = engine, report_steps
        self.loaded, self.config, self.builder = engine.loaded, engine.config, engine.builder
        self.model, self.text, self.device = self.loaded.model, self.loaded.text, self.loaded.device
        self.patch_side = self.builder.patch_side
        model, branches = self.model.config, engine.branches
        _, height, width = self.loaded.latent_shape
        like = torch.empty((), dtype=key_value_dtype(self.model), device=self.device)
        spare = height * width // self.patch_side**2 + _SPARE_CAPACITY
        slots, head_dim = num_documents * len(branches), model.width // model.heads
        self.cache = KeyValueCache(model.layers, slots, model.heads, head_dim, like, spare)
        self.denoiser = Denoiser(self.loaded, self.config, engine.seed, engine.runtime, self.cache)
        self.free_slots = [
            {branch: document + num_documents * number for number, branch in enumerate(branches)}
            for document in range(num_documents)
        ]

    def document(self, index: int, prompt: Prompt) -> DocumentState:
        """A document for a prompt, in free slots."""
        run = TextRun(self.text, (*prompt.stop, *self.config.stop))
        document = DocumentState(index, self.free_slots.pop(0), prompt, run)
        size_of_training = None if self.engine.size_of_id else self.loaded.latent_shape[1:]
        document.fixed_size = prompt.size or self.engine.size or size_of_training
        document.size = document.required_size
        if self.config.repetition_penalty != 1:
            texts = [piece.text for piece in prompt.pieces if isinstance(piece, TextPiece)]
            document.seen = [token for text in texts for token in self.text.encode(text)]
        return document

    def start(self, documents: list[DocumentState]) -> Iterator[GenerationEvent]:
        """Run the prompts, and what guidance compares them with, through the model; choose what comes next."""
        started: list[DocumentState] = []
        own: list[tuple[int, TokenSequence]] = []
        others: list[tuple[int, TokenSequence]] = []
        for document in documents:
            prompt = document.prompt
            length = len(self.builder.build(prompt.pieces).ids)
            fits = document.size is not None and self.engine.has_room(document, length, document.size)
            if length > self.engine.row_length or (prompt.image_next and document.size and not fits):
                yield from self._end(document, "length")
                continue
            started.append(document)
            own.append(
                (
                    document.slots["full"],
                    self.builder.build(prompt.pieces, document.size if prompt.image_next else None),
                )
            )
            if fits and (prompt.max_images or prompt.image_next):
                others += document.stale_branches(self.engine.branches, self.builder)
        if not started:
            return
        last_BD = self._read([*own, *others])
        choosing = [number for number, d in enumerate(started) if not (d.prompt.image_next and d.size)]
        yield from self._choose([started[number] for number in choosing], last_BD[choosing])

    def write(self, documents: list[DocumentState]) -> Iterator[GenerationEvent]:
        """Feed each document's next id and choose the one after it; after BOI an image comes."""
        fed = [document.next_id for document in documents]
        sequences = [TokenSequence((token,)) for token in fed if token is not None]
        last_BD = self._append([document.slots["full"] for document in documents], sequences)
        choosing = []
        for number, (document, token) in enumerate(zip(documents, fed, strict=True)):
            if token == self.text.boi:
                document.next_id = None
            elif token in self.engine.size_of_id:
                document.next_id = self.text.boi
            else:
                choosing.append(number)
        yield from self._choose([documents[number] for number in choosing], last_BD[choosing])

    def denoise(self, documents: list[DocumentState]) -> Iterator[GenerationEvent]:
        """Denoise the images, run each once more clean (t = 0) with EOI after it, and choose what comes next."""
        others = [found for each in documents for found in each.stale_branches(self.engine.branches, self.builder)]
        if others:
            self._read(others)
        yield from self.denoiser.denoise(documents, report_steps=self.report_steps)
        for document in documents:
            yield ImageDone(document.index, document.num_images, ImagePiece(document.latents[-1]))
            document.num_images += 1
            if document.prompt.image_next and document.prompt.max_images == 1:
                yield from self._end(document, "drawn")  # a prompt for exactly one image ends with it
        remaining = [document for document in documents if not document.ended]
        if remaining:
            yield from self._choose(remaining, self._read_images(remaining))

    def _read(self, sequences: Sequence[tuple[int, TokenSequence]]) -> Tensor:
        """`_append` to emptied slots. sequences: with their slots."""
        for slot, _ in sequences:
            self.cache.lengths[slot] = 0
        return self._append([slot for slot, _ in sequences], [sequence for _, sequence in sequences])

    def _append(self, slots: Sequence[int], sequences: Sequence[TokenSequence]) -> Tensor:
        """Append a sequence to each of the slots; returns the last hidden state of each, (B, D)."""
        starts = [self.cache.lengths[slot] for slot in slots]
        self.cache.reserve(max(start + len(each.ids) for start, each in zip(starts, sequences, strict=True)))
        bidirectional = self.model.config.image_attention == "bidirectional"
        segments = []
        for slot, start, sequence in zip(slots, starts, sequences, strict=True):
            mask_TM = build_mask(sequence, start, self.patch_side, self.device, bidirectional=bidirectional)
            segments.append(CacheSegment(slot, start, len(sequence.ids), mask_TM))
        inputs = build_inputs(sequences, starts, self.patch_side, self.device)
        hidden_ND = self.model.hidden(inputs, CachedAttention.build(self.cache, tuple(segments))).hidden_ND
        for segment in segments:
            self.cache.lengths[segment.slot] += segment.count
        counts = torch.tensor([segment.count for segment in segments], device=self.device)
        return hidden_ND[counts.cumsum(0) - 1]

    def _read_images(self, documents: list[DocumentState]) -> Tensor:
        sequences = [self.builder.finished_image(document.latents[-1]) for document in documents]
        return self._append([document.slots["full"] for document in documents], sequences)

    def _choose(self, documents: list[DocumentState], hidden_BD: Tensor) -> Iterator[GenerationEvent]:
        """Sample the next token of each document from its last hidden state, and apply it."""
        if not documents:
            return
        logits_BV = self.model.text_head(hidden_BD).float()
        logits_BV += torch.stack([self.engine.allowed_V(document) for document in documents])
        positions = [TokenPosition(d.index, self.cache.lengths[d.slots["full"]], d.seen) for d in documents]
        tokens = sample_tokens(logits_BV, positions, self.config, self.engine.seed)
        for document, at, token in zip(documents, positions, tokens, strict=True):
            yield from self._apply(document, token, at.position)

    def _apply(self, document: DocumentState, token: int, length: int) -> Iterator[GenerationEvent]:
        """Make a sampled token the document's next id, or end the document. length: its elements so far."""
        if token == self.text.eos:
            yield from self._end(document, "eos")
        elif token == self.text.boi or token in self.engine.size_of_id:
            yield from self._open_image(document, token, length)
        elif len(document.run.ids) >= self.config.max_text_tokens:
            yield from self._end(document, "text")
        elif length >= self.engine.row_length:
            yield from self._end(document, "length")
        else:
            document.next_id = token
            document.seen.append(token)
            yield from _emit(document, document.run.add(token))
            if document.run.stopped:
                yield from self._end(document, "stop")

    def _open_image(self, document: DocumentState, token: int, length: int) -> Iterator[GenerationEvent]:
        """`_apply` for a token that starts an image."""
        if document.num_images >= max(document.prompt.max_images, int(_must_choose_size(document))):
            yield from self._end(document, "images")
            return
        size = document.required_size or self.engine.size_of_id[token]
        if not self.engine.has_room(document, length, size):
            yield from self._end(document, "length")
            return
        document.size, document.next_id = size, self.builder.opening(size)[0]
        yield from _emit(document, document.run.close())

    def _end(self, document: DocumentState, reason: str) -> Iterator[GenerationEvent]:
        yield from _emit(document, document.run.close())
        document.next_id, document.ended = None, True
        yield Ended(document.index, reason)


def _must_choose_size(document: DocumentState) -> bool:
    """Whether its prompt requires an image whose size the model chooses now."""
    return document.prompt.image_next and document.size is None and not document.num_images


def _emit(document: DocumentState, text: str) -> Iterator[GenerationEvent]:
    if text:
        yield TextAdded(document.index, text)
