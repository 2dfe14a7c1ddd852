"""The recipe section [tokenize]: train a SentencePiece model on the corpus, or load a finished one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from stages.core.config import Section
from stages.sources.text import TextFiles
from stages.sources.text_table import TextTable

VERSION = 5  # of the stage; raised where the same settings give other bytes


def _kind(value: Any) -> str:
    """kind may be left out for plain text."""
    return str(value.get("kind", "text") if isinstance(value, dict) else value.kind)


Corpus = Annotated[
    Annotated[TextFiles, Tag("text")] | Annotated[TextTable, Tag("table")],
    Discriminator(_kind, custom_error_type="corpus", custom_error_message="kind must be text or table"),
]


class TrainTokenizer(Section):
    """A SentencePiece model that is trained on the texts of this recipe."""

    kind: Literal["train"] = "train"
    """Train a SentencePiece model on the captions and texts of this recipe."""
    vocab_size: Annotated[int, Field(ge=16)] | Literal["auto"] = 1024
    """The most ids of the vocabulary, special tokens and 256 bytes included; a small corpus gives fewer. "auto": these 262, one
    for each character of the texts, and two for each word that comes at least 5 times; at most 8,000, or all characters."""
    algorithm: Literal["bpe", "unigram"] = "bpe"
    """SentencePiece's algorithm: byte pair encoding, or a unigram language model."""
    max_sentences: int = Field(1_000_000, ge=1)
    """The most texts that it is trained on, a random sample of all; memory grows with them."""


class PretrainedTokenizer(Section):
    """A finished SentencePiece model. Ids for BOI, EOI and padding are added after a vocabulary that does not have them."""

    kind: Literal["pretrained"] = "pretrained"
    """Take a finished SentencePiece model."""
    path: Path
    """A SentencePiece .model file (the paper takes Llama 2's), or the folder `tokens` of an earlier run."""


class TokenizeConfig(Section):
    """The tokenizer, more text, and other captions."""

    tokenizer: Annotated[TrainTokenizer | PretrainedTokenizer, Field(discriminator="kind")] = TrainTokenizer()
    """Where the vocabulary comes from: trained here, or a finished one."""
    text: tuple[Corpus, ...] = ()
    """Corpora of text alone that join the documents of the source, each a table [[tokenize.text]] of kind "text" or "table"."""
    captions: str = ""
    """A .jsonl, .csv or .parquet with `key` and `text` (or `caption`): replaces the caption of the picture with that key, or adds
    one. Pictures need not be encoded again for other captions. Empty: the captions of the source."""
