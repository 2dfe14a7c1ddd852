"""Tokens: every document as runs of ids and references to rows of latents.

tokenizer.model     the SentencePiece model
captions.jsonl      {"document": index, "text": ...}: captions that were replaced; only where some were
errors.jsonl        texts of corpora that were left out: key, path, reason code, message; only where some were
arrays/ids          int32, all text one behind another
arrays/segments     int64 (n, 4): [0, start in ids, length, 0] for text, [1, row of latents, grid, ok] for an image
arrays/offsets      int64 (documents + 1): the segments of each document
arrays/flags        uint8: 1 fixed order, 2 held out by the source, 4 no held-out loss
arrays/groups       int64: equal for one group
arrays/keys         int64: the hash of each document's key                 arrays/sources uint8: place in content.sources
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from stages.artifacts.arrays import flat_files
from stages.artifacts.checked import CheckedFiles
from stages.artifacts.form import Form
from stages.artifacts.manifest import MANIFEST, Manifest, open_artifact, read_content
from stages.artifacts.schema import Schema
from stages.artifacts.tables import IntArray, SegmentTable
from stages.core.errors import ExitCode, TfcliError

if TYPE_CHECKING:
    from stages.coders.text import TextCoder

TOKENIZER, ARRAYS, CAPTIONS, ERRORS = "tokenizer.model", "arrays", "captions.jsonl", "errors.jsonl"
NAMES = ("ids", "segments", "offsets", "flags", "groups", "keys", "sources")
SCHEMA = Schema(2)
FORM = Form(
    files=(TOKENIZER, CAPTIONS, ERRORS, *(file for name in NAMES for file in flat_files(f"{ARRAYS}/{name}"))),
)
TEXT, IMAGE = 0, 1
FIXED_ORDER, HELDOUT, NO_LOSS = 1, 2, 4


class SpecialTokens(BaseModel):
    """The size of the vocabulary and the ids of its special tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    vocab_size: int
    bos: int
    eos: int
    boi: int
    eoi: int
    pad: int


class TokensContent(SpecialTokens):
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
        values = self._files.flat(f"{ARRAYS}/{name}")
        wrong = self._wrong(name, values)
        if wrong:
            fix = "run 'tfcli tokenize --force' to make it again"
            raise TfcliError(f"{self.folder / ARRAYS / name} is damaged", why=wrong, fix=fix, code=ExitCode.ARTIFACT)
        return values

    def _wrong(self, name: str, values: IntArray) -> str:
        """What of an array is not as tokenizing writes it; empty where all is."""
        content = self.content
        if name == "ids":
            bad = (values < 0) | (values >= content.vocab_size)
            return _first(bad, "id out of range") or _other_length(values, content.num_text_tokens)
        if name == "segments":
            if values.ndim != 2 or values.shape[1] != 4:
                return f"its shape is {values.shape}"
            segments = SegmentTable(values)
            kind, first, second = segments.kind, segments.start, segments.length
            bad = (first < 0) | (second < 0) | ((kind != TEXT) & (kind != IMAGE))
            bad |= (kind == TEXT) & (first + second > content.num_text_tokens)
            return _first(bad, "segment that points outside of the ids, or of another kind")
        if name == "offsets":
            rising = len(values) > 0 and values[0] == 0 and bool((np.diff(values) >= 0).all())
            return ("" if rising else "the offsets do not rise from 0") or _other_length(
                values, content.num_documents + 1
            )
        if name == "flags":
            return _first(values > FIXED_ORDER + HELDOUT + NO_LOSS, "unknown flag") or _other_length(
                values, content.num_documents
            )
        if name == "sources":
            return _first(values >= len(content.sources), "unknown source") or _other_length(
                values, content.num_documents
            )
        return _other_length(values, content.num_documents)

    def captions(self) -> dict[int, str]:
        """The captions that were replaced, by index of the document."""
        files = self._files
        if not files.has(CAPTIONS):
            return {}
        rows = files.lines(CAPTIONS, {"document": (int,), "text": (str,)})
        return {row["document"]: row["text"] for row in rows}

    def text_coder(self) -> TextCoder:
        from stages.coders.text import TextCoder

        return TextCoder.load(self._files.path(TOKENIZER))

    @cached_property
    def _files(self) -> CheckedFiles:
        return CheckedFiles(self.folder, self.manifest)


def _first(bad: np.ndarray[Any, np.dtype[Any]], what: str) -> str:
    return f"entry {int(np.argmax(bad))}: {what}" if bad.any() else ""


def _other_length(values: IntArray, wanted: int) -> str:
    return "" if len(values) == wanted else f"{len(values):,} entries, the manifest says {wanted:,}"


def tokenizer_at(path: Path) -> Path:
    """The file of a named tokenizer: inside, if it is an artifact; else the path itself.

    Raises TfcliError (ARTIFACT) for an artifact of another kind or a damaged one.
    """
    path = Path(os.path.expanduser(path))  # unlike Path.expanduser, it leaves ~nobody as it is
    if not (path / MANIFEST).is_file():
        return path
    return CheckedFiles(path, open_artifact(path, "tokens")).path(TOKENIZER)
