"""A vocabulary that is too small is named, no long text is skipped, blanks come back that the corpus never had."""

from __future__ import annotations

import numpy as np
import pytest

from stages.coders.text import TextCoder, train_sentencepiece
from stages.core.errors import ExitCode, TfcliError

CORPUS = ["a small red circle", "a blue square and a green cross"] * 20


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_a_vocabulary_below_the_characters_of_the_corpus_is_named(algorithm: str) -> None:
    rng = np.random.default_rng(0)
    corpus = ["".join(chr(0x4E00 + int(char)) for char in rng.integers(500, size=12)) for _ in range(400)]
    with pytest.raises(TfcliError, match="400 is too small") as caught:
        train_sentencepiece(corpus, 400, algorithm)
    assert caught.value.code == ExitCode.INPUT
    needed = int(caught.value.fix.split()[3].replace(",", ""))
    assert needed > 400
    assert TextCoder(train_sentencepiece(corpus, needed, algorithm)).vocab_size <= needed


def test_a_text_above_a_mebibyte_is_learnt_from() -> None:
    long = "rhubarb and custard " * (2**20 // 20 + 1)
    coder = TextCoder(train_sentencepiece([long, *CORPUS], 400, "bpe"))
    assert len(coder.encode(" rhubarb")) == 1


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_blanks_come_back_where_the_corpus_had_none(algorithm: str) -> None:
    coder = TextCoder(train_sentencepiece(["abc", "abd", "ab"] * 5, 400, algorithm))
    assert coder.decode(coder.encode(" a  b ")) == " a  b "
