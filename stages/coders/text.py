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
from stages.core.reading import read_bounded
from stages.core.system import refuse_unreadable

MAX_MODEL_BYTES = 64 * 2**20
BOI, EOI, PAD = "<boi>", "<eoi>", "<pad>"
FIXED_IDS = 256 + 6  # of every vocabulary that is trained here: bytes, and <unk>, BOS, EOS, BOI, EOI and pad
_TRIALS = {
    "changes spaces at the start of a text or between words": " two  spaces",
    "changes line breaks and tabs": "one\n\ttwo\n",
    "changes characters that look alike (normalisation)": "\ufb01 \uff21 \u2460",
    "cannot write rare characters (no byte fallback): they are lost": "\u6f22\U0001f9a6",
}
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
        # A model that was trained elsewhere knows no image marks, and perhaps no ends: they get ids behind its vocabulary.
        self.vocab_size = self._processor.GetPieceSize()
        self.bos, self.eos = self._end(self._processor.bos_id()), self._end(self._processor.eos_id())
        self.boi, self.eoi, self.pad = (self._mark(name, origin) for name in (BOI, EOI, PAD))

    @classmethod
    def load(cls, path: Path) -> TextCoder:
        """From a model file of at most 64 MiB."""
        return cls(read_model(path), str(path))

    def losses(self) -> list[str]:
        """What this model cannot give back as it was, as ends of a sentence; empty for those that `train_sentencepiece` made."""
        return [what for what, text in _TRIALS.items() if self.decode(self._processor.EncodeAsIds(text)) != text]

    def _end(self, known: int) -> int:
        """The id of bos or eos; a new one where the model has none (-1)."""
        if known >= 0:
            return known
        self.vocab_size += 1
        return self.vocab_size - 1

    def _mark(self, name: str, origin: str) -> int:
        found = self._processor.PieceToId(name)
        if self._processor.IdToPiece(found) != name:
            self.vocab_size += 1
            return self.vocab_size - 1
        if not self._processor.IsControl(found):
            raise _not_a_model(origin, f"{name} is an ordinary piece in it, so text could forge it")
        return int(found)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; never a control id. Raises TfcliError (INPUT) for text that could not be written back."""
        require_encodable(text)
        ids: list[int] = self._processor.EncodeAsIds(text)
        return ids

    def encode_many(self, texts: list[str], threads: int) -> list[list[int]]:
        """`encode` of many texts on several threads."""
        for text in texts:
            require_encodable(text)
        ids: list[list[int]] = self._processor.Encode(texts, out_type=int, num_threads=threads) if texts else []
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of ids; control ids are skipped."""
        text: str = self._processor.DecodeIds([token for token in ids if token < self._processor.GetPieceSize()])
        # A model from a corpus without a blank spells the mark in bytes, and sentencepiece leaves that as it is.
        return text.replace(_SPACE_MARK, " ")


def read_model(path: Path) -> bytes:
    """The bytes of a model file, tried. Raises TfcliError (ARTIFACT) for what is none."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise _not_a_model(str(path), "it is not a plain file")
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise _not_a_model(str(path), f"{size / 2**20:.0f} MiB is too large for a vocabulary")
        model = read_bounded(path)
    except OSError as error:
        refuse_unreadable(path, error)
        raise _not_a_model(str(path), error.strerror or "cannot be read") from error
    TextCoder(model, str(path))
    return model


def training_memory(texts: list[str], algorithm: str) -> tuple[int, int]:
    """Bytes that training takes, from and to: for each character 13 to 40 (BPE) or 22 to 60 (unigram), measured on source code
    (10 and 30 MB, vocabulary of 8,000) and on words of which no two are alike."""
    characters = sum(map(len, texts))
    low, high = (13, 40) if algorithm == "bpe" else (22, 60)
    return low * characters, high * characters


def require_encodable(text: str) -> None:
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
