"""The recipe section [tokenize]: train a SentencePiece model on the corpus, or load a finished one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from stages.core.config import Section
from stages.sources.text import Text
from stages.sources.text_table import TextTable

VERSION = 5  # of the stage; raised where the same settings give other bytes


def _kind(value: Any) -> str:
    """kind may be left out for plain text."""
    return str(value.get("kind", "text") if isinstance(value, dict) else value.kind)


Corpus = Annotated[
    Annotated[Text, Tag("text")] | Annotated[TextTable, Tag("table")],
    Discriminator(_kind, custom_error_type="corpus", custom_error_message="kind must be text or table"),
]


class TrainTokenizer(Section):
    """vocab_size is an upper limit: a small corpus gives fewer pieces. max_sentences: texts that it is trained on, each equally
    likely; memory grows with them."""

    kind: Literal["train"] = "train"
    vocab_size: int = Field(1024, ge=16)
    algorithm: Literal["bpe", "unigram"] = "bpe"
    max_sentences: int = Field(1_000_000, ge=1)


class PretrainedTokenizer(Section):
    """A SentencePiece model file (Llama 2, Mistral), or the tokens of an earlier run. BOI, EOI and pad are added behind a
    vocabulary that does not have them."""

    kind: Literal["pretrained"] = "pretrained"
    path: Path


class TokenizeConfig(Section):
    """text: text-only corpora that join the documents of Latents here.

    captions: a .jsonl, .csv or .parquet of `key` and `text` (or `caption`): the text of the caption pair with that key is
    replaced, and a picture without a caption gets one. Pictures are not encoded again for other captions.
    """

    tokenizer: Annotated[TrainTokenizer | PretrainedTokenizer, Field(discriminator="kind")] = TrainTokenizer()
    text: tuple[Corpus, ...] = ()
    captions: str = ""
