"""Text <-> ids: the only user of sentencepiece. Lossless, with BOI, EOI and pad as control symbols.

Control symbols cannot be written: text that contains "<boi>" becomes plain pieces. A space before a word belongs to the
word; the text is taken as it is (no normalisation, no dummy space in front), so that decode returns it exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from stages.core.errors import ExitCode, TfcliError

MAX_MODEL_BYTES = 64 * 2**20
BOI, EOI, PAD = "<boi>", "<eoi>", "<pad>"
_SPACE_MARK = "\u2581"  # SentencePiece writes it for a space, so it cannot stand for itself


class TextCoder:
    """A SentencePiece model with ids for the marks of a mixed sequence. Raises TfcliError (ARTIFACT) if it is none."""

    def __init__(self, model: bytes, origin: str = "tokenizer") -> None:
        from sentencepiece import SentencePieceProcessor

        _refuse_other_formats(model, origin)
        self._processor = SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise _not_a_model(origin, str(error)[:200]) from error
        size = self._processor.GetPieceSize()
        self.bos, self.eos = self._processor.bos_id(), self._processor.eos_id()
        if self.bos < 0 or self.eos < 0:
            raise _not_a_model(origin, "it has no <s> or no </s>")
        # A model that was trained elsewhere knows no image marks: they get ids behind its vocabulary.
        marks = {}
        for name in (BOI, EOI, PAD):
            found = self._processor.PieceToId(name)
            known = self._processor.IdToPiece(found) == name
            if known and not self._processor.IsControl(found):
                raise _not_a_model(origin, f"{name} is an ordinary piece in it, so text could forge it")
            marks[name] = found if known else size
            size += not known
        self.boi, self.eoi, self.pad = marks[BOI], marks[EOI], marks[PAD]
        self.vocab_size = size

    @classmethod
    def load(cls, path: Path) -> TextCoder:
        """From a model file of at most 64 MiB."""
        try:
            size = path.stat().st_size
            if size > MAX_MODEL_BYTES:
                raise _not_a_model(str(path), f"{size / 2**20:.0f} MiB is too large for a vocabulary")
            return cls(path.read_bytes(), str(path))
        except OSError as error:
            raise _not_a_model(str(path), error.strerror or "cannot be read") from error

    def encode(self, text: str) -> list[int]:
        """Ids of a text; never a control id. Raises TfcliError (INPUT) for text that could not be written back."""
        check_text(text)
        ids: list[int] = self._processor.EncodeAsIds(text)
        return ids

    def encode_many(self, texts: list[str], threads: int) -> list[list[int]]:
        """`encode` of many texts on several threads."""
        for text in texts:
            check_text(text)
        ids: list[list[int]] = self._processor.Encode(texts, out_type=int, num_threads=threads) if texts else []
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of ids; control ids are skipped."""
        text: str = self._processor.DecodeIds([token for token in ids if token < self._processor.GetPieceSize()])
        # A model from a corpus without a blank spells the mark in bytes, and sentencepiece leaves that as it is.
        return text.replace(_SPACE_MARK, " ")


def check_text(text: str) -> None:
    """Raise TfcliError (INPUT) for a text that is no valid Unicode or holds the space mark U+2581."""
    if _SPACE_MARK in text:
        raise TfcliError("text holds U+2581", why="SentencePiece uses it for spaces", fix="replace it, e.g. by '_'")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TfcliError(
            "text is not valid Unicode", why=f"a lone surrogate at {error.start}", fix="clean the text"
        ) from error


def train_sentencepiece(sentences: Iterable[str], vocab_size: int, algorithm: str) -> bytes:
    """A lossless model of at most `vocab_size` pieces. Raises TfcliError (INPUT) where the corpus is too small."""
    texts = list(sentences)
    if not any(texts):
        raise TfcliError(
            "no text to train a tokenizer on", why="every text is empty", fix="give the source captions or text"
        )
    try:
        return _train(texts, vocab_size, algorithm)
    except RuntimeError as error:
        needed = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
        if needed:
            raise TfcliError(
                f"a vocabulary of {vocab_size:,} is too small for this corpus",
                why=f"its characters, 256 bytes and the marks take {int(needed[1]):,}",
                fix=f"set tokenize.tokenizer.vocab_size to {int(needed[1]):,} or more",
            ) from error
        # A small corpus holds fewer pieces than asked for; SentencePiece says how many it can give.
        found = re.search(r"<= (\d+)", str(error))
        if not found:
            raise TfcliError(
                "the tokenizer could not be trained", why=str(error)[:300], fix="check the texts"
            ) from error
        return _train(texts, int(found[1]), algorithm)


def _train(texts: list[str], vocab_size: int, algorithm: str) -> bytes:
    from sentencepiece import SentencePieceTrainer

    model = BytesIO()
    SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type=algorithm,
        vocab_size=vocab_size,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        split_by_unicode_script=False,  # "top-left" may become one piece
        split_digits=True,
        control_symbols=[BOI, EOI, PAD],
        # A longer text would be skipped without a word.
        max_sentence_length=max(2**20, 1 + max(len(text.encode("utf-8")) for text in texts)),
        num_threads=1,  # another number can give other scores, hence other bytes
        minloglevel=2,
    )
    return model.getvalue()


def _refuse_other_formats(model: bytes, origin: str) -> None:
    if not model:
        raise _not_a_model(origin, "the file is empty")
    if model.startswith(b"version https://git-lfs"):
        raise _not_a_model(origin, "it is a git-lfs pointer; run 'git lfs pull'")
    if model.lstrip()[:1] == b"{":
        raise _not_a_model(origin, "it is a Hugging Face tokenizer.json")


def _not_a_model(origin: str, why: str) -> TfcliError:
    fix = "give a SentencePiece .model file, or let tfcli train one"
    return TfcliError(f"{origin} is not a SentencePiece model", why=why, fix=fix, code=ExitCode.ARTIFACT)
