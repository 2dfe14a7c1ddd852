"""tokenize.tokenizer.vocab_size = "auto": the size of the vocabulary by the texts.

One id for each byte and special token, one for each character, and two for each word that comes at least 5 times: the word, and
the pieces on the way to it. A rarer word is no piece worth learning: it is spelled. In captions of drawn shapes (103 words, all
of them often) a word then takes 1.02 tokens, in names of emoji (1,442 words, 100 of them often) 2.9.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from stages.coders.text import FIXED_IDS

MOST = 8_000  # ids, where the characters alone do not take more
_OFTEN = 5
_IDS_OF_WORD = 2


@dataclass(frozen=True)
class VocabularySize:
    """What was derived. words: distinct ones that come often; all_words: distinct ones."""

    size: int
    characters: int
    words: int
    all_words: int

    def text(self) -> str:
        """In one line, for people."""
        words = f"{self.words:,} of {self.all_words:,} words come at least {_OFTEN} times"
        return f"a vocabulary of at most {self.size:,} ids: {self.characters:,} characters, and {words}"

    def record(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


def vocabulary_size_for(texts: Iterable[str]) -> VocabularySize:
    """The size for these texts. It always holds their characters, which a tokenizer cannot do without."""
    characters = {" "}
    counts: Counter[str] = Counter()
    for text in texts:
        characters.update(text)
        counts.update(text.split())
    words = sum(count >= _OFTEN for count in counts.values())
    least = FIXED_IDS + len(characters)
    return VocabularySize(max(least, min(MOST, least + _IDS_OF_WORD * words)), len(characters), words, len(counts))
