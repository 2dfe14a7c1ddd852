"""The recipe section [tokenize]: train a SentencePiece model on the corpus, or load a finished one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from stages.core.config import Section
from stages.sources.text import Text


class TrainTokenizer(Section):
    """vocab_size is an upper limit: a small corpus gives fewer pieces. max_sentences: sampled input for training."""

    kind: Literal["train"] = "train"
    vocab_size: int = Field(1024, ge=16)
    algorithm: Literal["bpe", "unigram"] = "bpe"
    max_sentences: int = Field(1_000_000, ge=1)


class PretrainedTokenizer(Section):
    """A SentencePiece model file (Llama 2, Mistral); BOI, EOI and pad are added behind its vocabulary."""

    kind: Literal["pretrained"] = "pretrained"
    path: Path


class TokenizeConfig(Section):
    """text: text-only corpora that join the documents of Latents here."""

    tokenizer: Annotated[TrainTokenizer | PretrainedTokenizer, Field(discriminator="kind")] = TrainTokenizer()
    text: tuple[Text, ...] = ()
