"""The text coder gives every text back, and no text can forge a mark."""

from __future__ import annotations

import os
import subprocess
import sys
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
        **{"vocab_size": 60, "minloglevel": 2, **options},
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


def test_ends_go_behind_a_vocabulary_that_lacks_them() -> None:
    coder = TextCoder(foreign_model(bos_id=-1, eos_id=-1))
    marks = [coder.bos, coder.eos, coder.boi, coder.eoi, coder.pad]
    assert marks == [60, 61, 62, 63, 64]
    assert coder.vocab_size == 65
    assert coder.decode([coder.bos, *coder.encode("a circle"), coder.eos]) == "a circle"


def test_a_pad_that_the_model_has_is_used() -> None:
    coder = TextCoder(foreign_model(pad_id=3))
    assert (coder.pad, coder.boi, coder.vocab_size) == (3, 60, 62)


def test_our_own_models_lose_nothing_and_others_say_what_they_lose() -> None:
    assert CODER.losses() == []
    plain = TextCoder(foreign_model()).losses()  # as SentencePiece trains by default
    assert [loss.split()[0] for loss in plain] == ["changes", "changes", "changes", "cannot"]
    llama = foreign_model(
        byte_fallback=True, vocab_size=320, normalization_rule_name="identity", remove_extra_whitespaces=False
    )
    assert TextCoder(llama).losses() == []
    assert "no byte fallback" in TextCoder(foreign_model(normalization_rule_name="identity")).losses()[-1]


def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TfcliError, match="not a SentencePiece model") as caught:
        TextCoder.load(tmp_path / "pipe")
    assert "plain file" in caught.value.why


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_memory_lies_within_the_guess(algorithm: str) -> None:
    """Measured in a process of its own: the peak above what it takes without training. 16 MiB are the trainer's own, whatever
    the texts; of these, 0.8 MB, they are a third."""
    code = (
        "import random\n"
        "from stages.coders.text import train_sentencepiece, training_memory\n"
        "import sentencepiece\n"
        "words = random.Random(0)\n"
        "text = lambda: ' '.join(''.join(words.choices('abcdefghij', k=6)) for _ in range(40))\n"
        "texts = [text() for _ in range(3000)]\n"
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) * 1024\n"
        "before = peak()\n"
        f"train_sentencepiece(texts, 400, '{algorithm}')\n"
        f"low, high = training_memory(texts, '{algorithm}')\n"
        "print(low < peak() - before < high + 2**24)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "True\n"


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
