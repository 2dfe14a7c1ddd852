"""Tokens: every document as runs of ids and references to rows of latents.

tokenizer.model     the SentencePiece model
captions.jsonl      {"document": index, "text": ...}: captions that were replaced; only where some were
errors.jsonl        texts of corpora that were left out: key, path, reason code, message; only where some were
arrays/ids          int32, all text one behind another
arrays/segments     int64 (n, 4): [0, start in ids, length, 0] for text, [1, row of latents, grid, ok] for an image
arrays/offsets      int64 (documents + 1): the segments of each document
arrays/flags        uint8: 1 fixed order, 2 held out by the source        arrays/groups  int64: equal for one group
arrays/keys         int64: the hash of each document's key                 arrays/sources uint8: place in content.sources
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from stages.artifacts.arrays import read_flat
from stages.artifacts.manifest import MANIFEST, Manifest, open_artifact, read_content
from stages.core.files import read_jsonl

if TYPE_CHECKING:
    from stages.coders.text import TextCoder

TOKENIZER, ARRAYS, CAPTIONS, ERRORS = "tokenizer.model", "arrays", "captions.jsonl", "errors.jsonl"
TEXT, IMAGE = 0, 1
FIXED_ORDER, HELDOUT = 1, 2
IntArray = np.ndarray[Any, np.dtype[np.int64]]


class Marks(BaseModel):
    """The size of the vocabulary and the ids of its marks."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    vocab_size: int
    bos: int
    eos: int
    boi: int
    eoi: int
    pad: int


class TokensContent(Marks):
    """The vocabulary, the counts, the names of the sources. The documents of Latents come first, then text corpora."""

    num_documents: int
    num_latent_documents: int
    num_text_tokens: int
    sources: list[str]


@dataclass(frozen=True)
class Tokens:
    """Sealed tokens; arrays are read when first asked for."""

    folder: Path
    manifest: Manifest
    content: TokensContent

    @classmethod
    def open(cls, folder: Path) -> Tokens:
        manifest = open_artifact(folder, "tokens")
        return cls(folder, manifest, read_content(folder, manifest, TokensContent))

    def array(self, name: str) -> IntArray:
        """One of ids, segments, offsets, flags, groups, keys, sources."""
        return read_flat(self.folder / ARRAYS / name)

    def captions(self) -> dict[int, str]:
        """The captions that were replaced, by index of the document."""
        path = self.folder / CAPTIONS
        return {row["document"]: row["text"] for row in read_jsonl(path)} if path.exists() else {}

    def text_coder(self) -> TextCoder:
        from stages.coders.text import TextCoder

        return TextCoder.load(self.folder / TOKENIZER)


def tokenizer_at(path: Path) -> Path:
    """The file of a named tokenizer: inside, if it is an artifact; else the path itself.

    Raises TfcliError (ARTIFACT) for an artifact of another kind or a damaged one.
    """
    path = Path(os.path.expanduser(path))  # unlike Path.expanduser, it leaves ~nobody as it is
    if not (path / MANIFEST).is_file():
        return path
    open_artifact(path, "tokens")
    return path / TOKENIZER
