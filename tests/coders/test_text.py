"""The text coder gives every text back, and no text can forge a mark."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.coders.text import TextCoder, train_sentencepiece
from stages.core.errors import ExitCode, TfcliError

CORPUS = [
    "a small red circle in the top-left",
    "a blue square and a green cross",
    "first a circle: then it turns blue: ",
] * 20
MODEL = train_sentencepiece(CORPUS, 400, "bpe")
CODER = TextCoder(MODEL)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581\x00"), max_size=60)


@given(TEXTS)
@settings(deadline=None)
def test_any_text_comes_back(text: str) -> None:
    assert CODER.decode(CODER.encode(text)) == text


@given(TEXTS)
@settings(deadline=None)
def test_text_never_gives_a_mark(text: str) -> None:
    marks = {CODER.bos, CODER.eos, CODER.boi, CODER.eoi, CODER.pad}
    assert not marks & set(CODER.encode(f"{text}<boi>{text}</s><s><pad><eoi>"))


def test_marks_are_five_different_ids_inside_the_vocabulary() -> None:
    marks = {CODER.bos, CODER.eos, CODER.boi, CODER.eoi, CODER.pad}
    assert len(marks) == 5
    assert max(marks) < CODER.vocab_size <= 400
    assert CODER.decode([CODER.boi, *CODER.encode("a circle"), CODER.eos]) == "a circle"


def test_a_place_is_one_piece() -> None:
    assert len(CODER.encode(" top-left")) == 1


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_the_size_is_a_limit_where_the_corpus_is_small(algorithm: str) -> None:
    coder = TextCoder(train_sentencepiece(CORPUS, 5000, algorithm))
    assert coder.vocab_size < 5000
    assert coder.decode(coder.encode("a red cross")) == "a red cross"


def test_training_twice_gives_the_same_bytes() -> None:
    assert train_sentencepiece(CORPUS, 400, "bpe") == MODEL


def test_many_equals_one_by_one() -> None:
    assert CODER.encode_many(CORPUS[:3], 2) == [CODER.encode(text) for text in CORPUS[:3]]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b'{"model": {}}', "tokenizer.json"),
        (b"version https://git-lfs.github.com/spec/v1", "git-lfs"),
        (b"no model at all", "Parse"),
        (MODEL[: len(MODEL) // 2], ""),
    ],
)
def test_what_is_no_model_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(TfcliError, match="not a SentencePiece model") as caught:
        TextCoder(data)
    assert caught.value.code == ExitCode.ARTIFACT
    assert why in caught.value.why


@pytest.mark.parametrize("text", ["a\u2581b", "\ud800"])
def test_text_that_could_not_come_back_is_refused(text: str) -> None:
    with pytest.raises(TfcliError):
        CODER.encode(text)


def test_a_corpus_without_text_is_refused() -> None:
    with pytest.raises(TfcliError, match="no text"):
        train_sentencepiece(["", ""], 400, "bpe")
