"""The characters of all texts of a recipe: whether a tokenizer can be trained on them. Pictures are not read."""

from __future__ import annotations

from typing import Literal

from stages.coders.text import FIXED_IDS, train_sentencepiece
from stages.core.errors import TfcliError
from stages.doctor.findings import Finding


class Alphabet:
    """Takes texts of the source and of the corpora; memory is that of the distinct characters."""

    def __init__(self) -> None:
        self._letters: set[str] = set()

    def add(self, text: str) -> None:
        self._letters.update(text)

    def finding(self, vocab_size: int | Literal["auto"]) -> Finding | None:
        """What tokenizing would stop at. The trainer itself is asked, with each character once: what a vocabulary has to hold
        depends on the characters alone, and "auto" holds all of them."""
        if vocab_size == "auto":
            vocab_size = FIXED_IDS + len(self._letters | {" "})
        try:
            train_sentencepiece(["".join(sorted(self._letters))], vocab_size, "bpe")
        except TfcliError as error:
            code = "VOCABULARY" if self._letters else "NO_TEXT"
            return Finding(code, "stops", f"{error.what} ({error.why})", error.fix)
        return None
