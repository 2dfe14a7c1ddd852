"""The text coder gives every text back, and no text can forge a mark."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
import sentencepiece
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


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_training_twice_gives_the_same_bytes(algorithm: str) -> None:
    assert train_sentencepiece(CORPUS, 300, algorithm) == train_sentencepiece(CORPUS, 300, algorithm)


def foreign_model(**options: object) -> bytes:
    """A model as another program would train it."""
    out = BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(CORPUS),
        model_writer=out,
        model_type="bpe",
        vocab_size=60,
        minloglevel=2,
        **options,
    )
    return out.getvalue()


def test_marks_go_behind_a_vocabulary_that_lacks_them() -> None:
    coder = TextCoder(foreign_model())
    assert (coder.boi, coder.eoi, coder.pad) == (60, 61, 62)
    assert coder.vocab_size == 63
    ids = coder.encode("a <boi> circle")
    assert not {60, 61, 62} & set(ids)
    assert coder.decode([coder.boi, *coder.encode("a circle"), coder.pad]) == "a circle"


def test_a_model_whose_text_could_forge_a_mark_is_refused() -> None:
    with pytest.raises(TfcliError, match="not a SentencePiece model") as caught:
        TextCoder(foreign_model(user_defined_symbols=["<boi>"]))
    assert "forge" in caught.value.why


def test_a_model_without_an_end_is_refused() -> None:
    with pytest.raises(TfcliError, match="not a SentencePiece model") as caught:
        TextCoder(foreign_model(eos_id=-1))
    assert "</s>" in caught.value.why


def test_a_missing_or_huge_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TfcliError, match="not a SentencePiece model") as caught:
        TextCoder.load(tmp_path / "none")
    assert caught.value.code == ExitCode.ARTIFACT
    (tmp_path / "model").write_bytes(MODEL)
    assert TextCoder.load(tmp_path / "model").vocab_size == CODER.vocab_size
    monkeypatch.setattr("stages.coders.text.MAX_MODEL_BYTES", len(MODEL) - 1)
    with pytest.raises(TfcliError, match="not a SentencePiece model"):
        TextCoder.load(tmp_path / "model")


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
