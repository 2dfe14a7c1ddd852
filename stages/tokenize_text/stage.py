"""Text -> ids: the documents of Latents and text corpora -> Tokens. Runs without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

import numpy as np

from stages.artifacts.arrays import write_flat
from stages.artifacts.context import StageContext
from stages.artifacts.latents import Latents, StoredDocument, StoredText, caption_of
from stages.artifacts.tokens import (
    ARRAYS,
    CAPTIONS,
    ERRORS,
    FIXED_ORDER,
    FORM,
    HELDOUT,
    IMAGE,
    NO_LOSS,
    TEXT,
    TOKENIZER,
    TokensContent,
    tokenizer_at,
)
from stages.coders.text import TextCoder, read_model, training_memory
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note, Progress, Warn
from stages.core.files import write_atomic, write_jsonl
from stages.core.hashing import hash_bytes
from stages.core.memory import available_bytes
from stages.core.runtime import Runtime
from stages.core.seeds import numpy_generator
from stages.core.text import printable
from stages.sources.document import Document, Omission, TextSegment
from stages.tokenize_text.config import Corpus, PretrainedTokenizer, TokenizeConfig
from stages.tokenize_text.recaption import Captions
from stages.tokenize_text.training import train_in_process
from stages.tokenize_text.vocabulary import VocabularySize, vocabulary_size_for

_BLOCK = 10_000  # documents tokenized at a time, fewer where they have more than so many characters together:
_BLOCK_CHARACTERS = 4 * 2**20  # the ids of a block are lists for a moment, 36 bytes an id
_KEPT = "nothing to save: tokenizing starts again"


def run(tokenize: TokenizeConfig, latents: Path, context: StageContext) -> None:
    """Train or load the tokenizer, encode every document, write flat arrays, seal."""
    build, runtime, seed = context.build, context.runtime, context.seed
    stored = Latents.open(latents)
    captions = Captions(tokenize.captions) if tokenize.captions else None

    def documents() -> Iterator[StoredDocument]:
        return stored.documents() if captions is None else captions.over(stored.documents())

    model, derived = _model(tokenize, documents, runtime, seed)
    coder = TextCoder(model)
    for loss in coder.losses():
        runtime.report(Warn(f"this tokenizer {loss}"))
    write_atomic(build.folder / TOKENIZER, model)

    columns = _Columns()
    found: set[str] = set()
    left_out: list[Omission] = []
    num_latent_documents = 0
    for block in _blocks(chain(documents(), _corpora(tokenize.text, left_out))):
        runtime.interrupts.check(_KEPT)
        columns.add(block, coder, max(1, runtime.workers))
        mine = [document for document in block if isinstance(document, StoredDocument)]
        num_latent_documents += len(mine)
        if captions is not None:
            found.update(document.key for document in mine if document.key in captions.rows)
        total = max(stored.content.num_documents, columns.num_documents)
        runtime.report(Progress("tokenize", columns.num_documents, total, "documents"))
    stats: dict[str, Any] = {"tokens_per_document": columns.num_ids / max(1, columns.num_documents)}
    if derived is not None:
        stats["vocab_size"] = derived.record()
    if captions is not None:
        captions.report(found, runtime.report)
        replaced = (document for document in documents() if document.key in found)
        rows = ({"document": document.index, "text": caption_of(document)} for document in replaced)
        write_jsonl(build.folder / CAPTIONS, rows)
        stats["captions_replaced"] = len(found)
    if left_out:
        _report_left_out(left_out, context)
        stats["left_out"] = dict(Counter(item.reason for item in left_out))
    if coder.losses():
        stats["not_kept"] = coder.losses()
    (build.folder / ARRAYS).mkdir(exist_ok=True)
    for name, values in columns.arrays():
        write_flat(build.folder / ARRAYS / name, values)
    content = _content(coder, columns, num_latent_documents)
    runtime.inputs_unchanged()
    absent = [*([CAPTIONS] if captions is None else []), *([] if left_out else [ERRORS])]
    build.seal(content.model_dump(), stats, files=[name for name in FORM.files if name not in absent])


def _report_left_out(left_out: list[Omission], context: StageContext) -> None:
    shown = "; ".join(f"{printable(item.path)}: {item.reason} ({item.message})" for item in left_out[:5])
    context.runtime.report(Warn(f"{len(left_out)} texts left out, see errors.jsonl: {shown}"))
    write_jsonl(context.build.folder / ERRORS, map(vars, left_out))


def _content(coder: TextCoder, columns: _Columns, num_latent_documents: int) -> TokensContent:
    return TokensContent(
        vocab_size=coder.vocab_size,
        bos=coder.bos,
        eos=coder.eos,
        boi=coder.boi,
        eoi=coder.eoi,
        pad=coder.pad,
        num_documents=columns.num_documents,
        num_latent_documents=num_latent_documents,
        num_text_tokens=columns.num_ids,
        sources=list(columns.names),
    )


def _model(
    tokenize: TokenizeConfig, documents: Callable[[], Iterator[StoredDocument]], runtime: Runtime, seed: int
) -> tuple[bytes, VocabularySize | None]:
    """The bytes of the SentencePiece model: a finished one, or one trained on a sample of all texts. With it the size of the
    vocabulary, where that was derived."""
    chosen = tokenize.tokenizer
    if isinstance(chosen, PretrainedTokenizer):
        return read_model(tokenizer_at(chosen.path)), None
    with runtime.interrupts.at_once(_KEPT):
        texts, total = _sampled(_texts(documents(), tokenize.text), chosen.max_sentences, seed)
    low, high = training_memory(texts, chosen.algorithm)
    of = f"{len(texts):,}" if total == len(texts) else f"{len(texts):,} of {total:,}"
    taken = f"{low / 2**20:,.0f} to {high / 2**20:,.0f} MiB of memory"
    runtime.report(Note(f"training a tokenizer on {of} texts" + (f", which takes {taken}" if high > 2**26 else "")))
    free = available_bytes()
    if free is not None and high > free:
        what = f"training a tokenizer on {len(texts):,} texts takes {taken}, {free / 2**20:,.0f} MiB are free"
        if low > free:
            fix = "lower tokenize.tokenizer.max_sentences"
            raise TfcliError(what, fix=fix, code=ExitCode.ENVIRONMENT)
        runtime.report(Warn(f"{what}; tokenize.tokenizer.max_sentences makes it less"))
    if chosen.vocab_size != "auto":
        return train_in_process(texts, chosen.vocab_size, chosen.algorithm, runtime.interrupts, _KEPT), None
    derived = vocabulary_size_for(texts)
    runtime.report(Note(derived.text()))
    return train_in_process(texts, derived.size, chosen.algorithm, runtime.interrupts, _KEPT), derived


@dataclass(frozen=True)
class _CorpusDocument:
    """A document of a text corpus."""

    key: str
    group: str | None
    segments: tuple[StoredText, ...]
    source: str
    fixed_order: bool = True
    heldout: bool = False
    has_heldout_loss: bool = True


_Document = StoredDocument | _CorpusDocument


_TYPES = {
    "ids": np.int32,
    "segments": np.int64,
    "offsets": np.int64,
    "flags": np.uint8,
    "groups": np.int64,
    "keys": np.int64,
    "sources": np.uint8,
}


class _Columns:
    """The arrays of Tokens while they grow: a piece for each block of documents, as lists of numbers of a hundred million
    documents would take four times the memory."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[np.ndarray]] = {name: [] for name in _TYPES}
        self.names: dict[str, int] = {}  # of sources, in the order in which they come
        self.num_ids = self.num_segments = self.num_documents = 0

    def add(self, documents: list[_Document], coder: TextCoder, threads: int) -> None:
        # not in a thread while the last block is laid out: both hold the interpreter's lock, 0.85 times as fast (measured)
        texts = [part.text for document in documents for part in document.segments if isinstance(part, StoredText)]
        encoded = coder.encode_many(texts, threads)
        lengths = [len(ids) for ids in encoded]
        ids = np.fromiter(chain.from_iterable(encoded), dtype=np.int32, count=sum(lengths))
        del encoded, texts  # before the rest is laid out
        length_of_next = iter(lengths)
        segments: list[tuple[int, int, int, int]] = []
        offsets, flags, groups, keys, sources = [], [], [], [], []
        for document in documents:
            for part in document.segments:
                if isinstance(part, StoredText):
                    length = next(length_of_next)
                    segments.append((TEXT, self.num_ids, length, 0))
                    self.num_ids += length
                else:
                    segments.append((IMAGE, part.row, part.grid, int(part.ok)))
            offsets.append(self.num_segments + len(segments))
            flags.append(
                FIXED_ORDER * document.fixed_order
                + HELDOUT * document.heldout
                + NO_LOSS * (not document.has_heldout_loss)
            )
            key = _named("key", document.key)
            keys.append(key)
            groups.append(key if document.group is None else _named("group", document.group))
            sources.append(self.names.setdefault(document.source, len(self.names)))
        self.num_segments += len(segments)
        self.num_documents += len(documents)
        block = {"ids": ids, "segments": np.array(segments, dtype=np.int64).reshape(-1, 4), "offsets": offsets}
        block |= {"flags": flags, "groups": groups, "keys": keys, "sources": sources}
        for name, values in block.items():
            self._pieces[name].append(np.asarray(values, dtype=_TYPES[name]))

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each array by its name, once: its pieces are given up, so that two of them are never there twice."""
        for name, dtype in _TYPES.items():
            pieces = self._pieces.pop(name)
            first = (
                [np.zeros(1, dtype)] if name == "offsets" else [np.zeros((0, 4) if name == "segments" else 0, dtype)]
            )
            yield name, np.concatenate([*first, *pieces])


def _named(kind: str, name: str) -> int:
    """60 bits of hash_value([kind, name]), with the JSON written by hand: the standard library takes ten times as long."""
    text = f'["{kind}",{encode_basestring(name)}]'
    return int(hash_bytes(text.encode("utf-8", "surrogatepass"))[:15], 16)


def _texts(documents: Iterator[StoredDocument], corpora: tuple[Corpus, ...]) -> Iterator[str]:
    for document in documents:
        yield from (part.text for part in document.segments if isinstance(part, StoredText))
    for corpus in corpora:
        for item in corpus.documents():
            if isinstance(item, Document):
                yield from (part.text for part in item.segments if isinstance(part, TextSegment))


def _sampled(texts: Iterator[str], limit: int, seed: int) -> tuple[list[str], int]:
    """At most `limit` texts, each equally likely (reservoir), in source order; and how many there were."""
    rng = numpy_generator(seed, "tokenizer sample")
    kept: list[tuple[int, str]] = []
    number = -1
    for number, text in enumerate(texts):
        if len(kept) < limit:
            kept.append((number, text))
        elif (slot := int(rng.integers(number + 1))) < limit:
            kept[slot] = (number, text)
    return [text for _, text in sorted(kept)], number + 1


def _corpora(corpora: tuple[Corpus, ...], left_out: list[Omission]) -> Iterator[_CorpusDocument]:
    """The documents of all corpora; what becomes none goes to `left_out`."""
    for number, corpus in enumerate(corpora):
        for item in corpus.documents():
            if isinstance(item, Omission):
                left_out.append(replace(item, key=f"text{number}/{item.key}"))
                continue
            parts = tuple(StoredText(part.text) for part in item.segments if isinstance(part, TextSegment))
            yield _CorpusDocument(f"text{number}/{item.key}", item.group, parts, corpus.name)


def _blocks(documents: Iterator[_Document]) -> Iterator[list[_Document]]:
    block: list[_Document] = []
    characters = 0
    for document in documents:
        block.append(document)
        characters += sum(len(part.text) for part in document.segments if isinstance(part, StoredText))
        if len(block) == _BLOCK or characters >= _BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block
