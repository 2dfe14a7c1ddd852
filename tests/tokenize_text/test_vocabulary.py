"""tokenize.tokenizer.vocab_size = "auto": the rule, what is stored of it, and that a number gives what it always gave."""

from __future__ import annotations

import string
from pathlib import Path

import pytest

from stages.artifacts.tokens import TOKENIZER, Tokens
from stages.coders.text import FIXED_IDS, TextCoder, train_sentencepiece
from stages.core.events import Event, Note
from stages.tokenize_text.config import TokenizeConfig, TrainTokenizer
from stages.tokenize_text.vocabulary import MOST, vocabulary_size_for
from tests.builders import Story, make_latents, make_tokens

TEXTS = [f"a {colour} thing {number}" for number in range(20) for colour in ("red", "blue")]
MANY = "".join(chr(0x4E00 + number) for number in range(9_000))


def test_two_ids_for_each_word_that_comes_often() -> None:
    found = vocabulary_size_for(["a red thing", "a red one"] * 3)
    assert (found.characters, found.words, found.all_words) == (len(set("a red thing one")), 2, 4)
    assert found.size == FIXED_IDS + found.characters + 2 * 2
    assert vocabulary_size_for([]).size == FIXED_IDS + 1


def test_at_most_8000_but_all_characters() -> None:
    words = [
        first + second + third
        for first in string.ascii_lowercase
        for second in "abcdefgh"
        for third in string.digits + "xyzuvwrstq"
    ]
    assert len(words) > MOST / 2
    assert vocabulary_size_for(words * 5).size == MOST
    assert vocabulary_size_for([MANY]).size == FIXED_IDS + len(MANY) + 1 > MOST


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
@pytest.mark.parametrize(
    "texts", [["x"], ["a b", "\t\n", "\u00e9\U0001f9a6 word"], TEXTS, ["one", "two"] * 4, ["word " * 9], [MANY[:500]]]
)
def test_a_tokenizer_can_be_trained_with_it(texts: list[str], algorithm: str) -> None:
    """It never lacks room for the characters, and where the texts hold fewer pieces there are fewer."""
    size = vocabulary_size_for(texts).size
    coder = TextCoder(train_sentencepiece(texts, size, algorithm))
    assert coder.vocab_size <= size
    assert [coder.decode(coder.encode(text)) for text in texts] == texts


def test_the_tokens_are_those_of_the_number_that_is_derived(tmp_path: Path) -> None:
    latents = make_latents(tmp_path / "latents", [Story((text, None)) for text in TEXTS])
    events: list[Event] = []
    auto = Tokens.open(
        make_tokens(
            tmp_path / "auto", latents, TokenizeConfig(tokenizer=TrainTokenizer(vocab_size="auto")), events.append
        )
    )
    derived = vocabulary_size_for(TEXTS)
    config = TokenizeConfig(tokenizer=TrainTokenizer(vocab_size=derived.size))
    number = Tokens.open(make_tokens(tmp_path / "number", latents, config))
    assert auto.manifest.stats.pop("vocab_size") == derived.record()
    assert auto.content == number.content
    assert auto.manifest.stats == number.manifest.stats
    assert auto.manifest.files == number.manifest.files
    assert TOKENIZER in {file.path for file in auto.manifest.files}
    notes = [event.text for event in events if isinstance(event, Note)]
    assert (
        f"a vocabulary of at most {derived.size:,} ids: {derived.characters} characters, and 4 of 24 words come at least 5 times"
        in notes
    )
