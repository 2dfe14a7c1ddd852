"""Text -> ids: the documents of Latents and text corpora -> Tokens. Runs without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from json.encoder import encode_basestring
from pathlib import Path

import numpy as np

from stages.artifacts.arrays import write_flat
from stages.artifacts.folder import Build
from stages.artifacts.latents import Latents, StoredDocument, StoredText
from stages.artifacts.tokens import ARRAYS, FIXED_ORDER, HELDOUT, IMAGE, TEXT, TOKENIZER, TokensContent
from stages.coders.text import TextCoder, train_sentencepiece
from stages.core.events import Note, Progress, Warn
from stages.core.files import write_atomic
from stages.core.hashing import hash_bytes
from stages.core.runtime import Runtime
from stages.core.seeds import numpy_generator
from stages.sources.document import Document, Omission, TextSegment
from stages.sources.text import Text
from stages.tokenize_text.config import PretrainedTokenizer, TokenizeConfig

_BLOCK = 10_000  # documents tokenized at a time


def run(tokenize: TokenizeConfig, latents: Path, build: Build, runtime: Runtime, seed: int) -> None:
    """Train or load the tokenizer, encode every document, write flat arrays, seal."""
    stored = Latents.open(latents)
    chosen = tokenize.tokenizer
    if isinstance(chosen, PretrainedTokenizer):
        coder = TextCoder.load(chosen.path.expanduser())
        model = chosen.path.expanduser().read_bytes()
    else:
        sentences = _sampled(_texts(stored, tokenize.text), chosen.max_sentences, seed)
        runtime.report(Note(f"training a tokenizer on {len(sentences)} texts"))
        model = train_sentencepiece(sentences, chosen.vocab_size, chosen.algorithm)
        coder = TextCoder(model)
    write_atomic(build.folder / TOKENIZER, model)

    columns = _Columns()
    num_latent_documents = 0
    total = stored.content.num_documents
    for block in _blocks(chain(stored.documents(), _corpora(tokenize.text, runtime))):
        runtime.interrupts.check("nothing to save: tokenizing starts again")
        columns.add(block, coder, max(1, runtime.workers))
        num_latent_documents += sum(isinstance(document, StoredDocument) for document in block)
        runtime.report(Progress("tokenize", columns.num_documents, max(total, columns.num_documents), "documents"))
    (build.folder / ARRAYS).mkdir(exist_ok=True)
    for name, values in columns.arrays().items():
        write_flat(build.folder / ARRAYS / name, values)
    content = TokensContent(
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
    build.seal(content.model_dump(), {"tokens_per_document": columns.num_ids / max(1, columns.num_documents)})


@dataclass(frozen=True)
class _CorpusDocument:
    """A document of a text corpus."""

    key: str
    group: str | None
    segments: tuple[StoredText, ...]
    source: str
    fixed_order: bool = True
    heldout: bool = False


class _Columns:
    """The arrays of Tokens while they grow."""

    def __init__(self) -> None:
        self.ids: list[np.ndarray] = []
        self.segments: list[tuple[int, int, int, int]] = []
        self.offsets, self.flags, self.groups, self.keys, self.sources = [0], [], [], [], []  # type: ignore[var-annotated]
        self.names: dict[str, int] = {}  # of sources, in the order in which they come
        self.num_ids = 0

    @property
    def num_documents(self) -> int:
        return len(self.flags)

    def add(self, documents: list[StoredDocument | _CorpusDocument], coder: TextCoder, threads: int) -> None:
        texts = [part.text for document in documents for part in document.segments if isinstance(part, StoredText)]
        encoded = coder.encode_many(texts, threads)
        lengths = [len(ids) for ids in encoded]
        self.ids.append(np.fromiter(chain.from_iterable(encoded), dtype=np.int32, count=sum(lengths)))
        length_of_next = iter(lengths)
        for document in documents:
            for part in document.segments:
                if isinstance(part, StoredText):
                    length = next(length_of_next)
                    self.segments.append((TEXT, self.num_ids, length, 0))
                    self.num_ids += length
                else:
                    self.segments.append((IMAGE, part.row, part.grid, int(part.ok)))
            self.offsets.append(len(self.segments))
            self.flags.append(FIXED_ORDER * document.fixed_order + HELDOUT * document.heldout)
            key = _named("key", document.key)
            self.keys.append(key)
            self.groups.append(key if document.group is None else _named("group", document.group))
            self.sources.append(self.names.setdefault(document.source, len(self.names)))

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "ids": np.concatenate(self.ids) if self.ids else np.zeros(0, np.int32),
            "segments": np.array(self.segments, dtype=np.int64).reshape(-1, 4),
            "offsets": np.array(self.offsets, dtype=np.int64),
            "flags": np.array(self.flags, dtype=np.uint8),
            "groups": np.array(self.groups, dtype=np.int64),
            "keys": np.array(self.keys, dtype=np.int64),
            "sources": np.array(self.sources, dtype=np.uint8),
        }


def _named(kind: str, name: str) -> int:
    """60 bits of hash_value([kind, name]), with the JSON written by hand: the standard library takes ten times as long."""
    text = f'["{kind}",{encode_basestring(name)}]'
    return int(hash_bytes(text.encode("utf-8", "surrogatepass"))[:15], 16)


def _texts(stored: Latents, corpora: tuple[Text, ...]) -> Iterator[str]:
    for document in stored.documents():
        yield from (part.text for part in document.segments if isinstance(part, StoredText))
    for corpus in corpora:
        for item in corpus.documents():
            if isinstance(item, Document):
                yield from (part.text for part in item.segments if isinstance(part, TextSegment))


def _sampled(texts: Iterator[str], limit: int, seed: int) -> list[str]:
    """At most `limit` texts, each equally likely (reservoir), in source order."""
    rng = numpy_generator(seed, "tokenizer sample")
    kept: list[tuple[int, str]] = []
    for number, text in enumerate(texts):
        if len(kept) < limit:
            kept.append((number, text))
        elif (place := int(rng.integers(number + 1))) < limit:
            kept[place] = (number, text)
    return [text for _, text in sorted(kept)]


def _corpora(corpora: tuple[Text, ...], runtime: Runtime) -> Iterator[_CorpusDocument]:
    for number, corpus in enumerate(corpora):
        omitted = 0
        for item in corpus.documents():
            if isinstance(item, Omission):
                omitted += 1
                continue
            parts = tuple(StoredText(part.text) for part in item.segments if isinstance(part, TextSegment))
            yield _CorpusDocument(f"text{number}/{item.key}", item.group, parts, corpus.name)
        if omitted:
            runtime.report(Warn(f"{corpus.describe()}: {omitted} texts left out"))


def _blocks(
    documents: Iterator[StoredDocument | _CorpusDocument],
) -> Iterator[list[StoredDocument | _CorpusDocument]]:
    block: list[StoredDocument | _CorpusDocument] = []
    for document in documents:
        block.append(document)
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block
