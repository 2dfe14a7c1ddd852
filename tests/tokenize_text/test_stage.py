"""Tokens hold the ids of every text in place, corpora behind the documents, and the same bytes each time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.artifacts.tokens import FIXED_ORDER, HELDOUT, IMAGE, TEXT, Tokens
from stages.coders.text import TextCoder, train_sentencepiece
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Event, Warn
from stages.core.files import read_jsonl
from stages.core.hashing import hash_value
from stages.sources.text import TextFiles
from stages.tokenize_text import stage
from stages.tokenize_text.config import PretrainedTokenizer, TokenizeConfig, TrainTokenizer
from stages.tokenize_text.stage import _Columns, _CorpusDocument, _sampled
from tests.builders import Story, make_latents, make_tokens

STORIES = [
    Story(("a red circle", None), group="one"),
    Story((None, "then it turns blue", None), fixed_order=True, group="one"),
    Story(("", None), bad=True),
    Story(("only words <boi>",), heldout=True),
]
TRAIN = TrainTokenizer(vocab_size=300)


@pytest.fixture
def latents(tmp_path: Path) -> Path:
    return make_latents(tmp_path / "latents", STORIES)


def read_back(tokens: Tokens) -> list[list[str | tuple[int, ...]]]:
    """Every document as its parts: texts decoded, images as (row, grid, ok)."""
    coder = tokens.text_coder()
    ids, segments, offsets = (tokens.array(name) for name in ("ids", "segments", "offsets"))
    documents = []
    for start, end in pairwise(offsets):
        parts: list[str | tuple[int, ...]] = []
        for kind, first, second, third in segments[start:end].tolist():
            assert kind in (TEXT, IMAGE)
            if kind == TEXT:
                own = ids[first : first + second].tolist()
                text = coder.decode(own)
                assert own == coder.encode(text)
                parts.append(text)
            else:
                parts.append((first, second, third))
        documents.append(parts)
    return documents


def test_documents_come_back_from_ids_segments_and_offsets(tmp_path: Path, latents: Path) -> None:
    tokens = Tokens.open(make_tokens(tmp_path / "tokens", latents, TokenizeConfig(tokenizer=TRAIN)))
    assert read_back(tokens) == [
        ["a red circle", (0, 0, 1)],
        [(1, 0, 1), "then it turns blue", (2, 0, 1)],
        ["", (3, 0, 0)],
        ["only words <boi>"],
    ]
    assert tokens.array("flags").tolist() == [0, FIXED_ORDER, 0, HELDOUT]
    groups = tokens.array("groups").tolist()
    assert groups[0] == groups[1]
    assert len(set(groups)) == 3
    content = tokens.content
    assert (content.num_documents, content.num_latent_documents) == (4, 4)
    assert content.num_text_tokens == len(tokens.array("ids"))
    marks = [content.bos, content.eos, content.boi, content.eoi, content.pad]
    assert not np.isin(tokens.array("ids"), marks).any()
    assert tokens.array("ids").dtype == np.int32


def test_text_corpora_come_behind_the_documents(tmp_path: Path, latents: Path) -> None:
    (tmp_path / "novel.txt").write_text("once upon a time\nforged \u2581 space\nthe end\n")
    corpus = TextFiles(path=str(tmp_path / "novel.txt"), split="line")
    config = TokenizeConfig(tokenizer=TRAIN, text=(corpus,))
    tokens = Tokens.open(make_tokens(tmp_path / "tokens", latents, config))
    content = tokens.content
    texts = read_back(tokens)[content.num_latent_documents :]
    assert texts[0] == ["once upon a time"]
    assert texts[-1] == ["the end"]
    assert content.num_documents == content.num_latent_documents + len(texts)
    assert (tokens.array("flags")[content.num_latent_documents :] == FIXED_ORDER).all()


def test_the_same_run_gives_the_same_digest(tmp_path: Path, latents: Path) -> None:
    config = TokenizeConfig(tokenizer=TRAIN)
    first, second = (Tokens.open(make_tokens(tmp_path / name, latents, config)) for name in ("a", "b"))
    assert first.manifest.digest == second.manifest.digest
    other = TokenizeConfig(tokenizer=TrainTokenizer(vocab_size=290))
    assert Tokens.open(make_tokens(tmp_path / "c", latents, other)).manifest.digest != first.manifest.digest


def test_long_documents_make_shorter_blocks_and_the_same_arrays(
    tmp_path: Path, latents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand books at once would take 38 bytes of memory for each byte of text."""
    whole = Tokens.open(make_tokens(tmp_path / "whole", latents, TokenizeConfig(tokenizer=TRAIN)))
    blocks: list[int] = []
    real = stage._Columns.add

    def noted(columns: Any, documents: Any, *more: Any) -> None:
        blocks.append(len(documents))
        real(columns, documents, *more)

    monkeypatch.setattr(stage._Columns, "add", noted)
    monkeypatch.setattr(stage, "_BLOCK_CHARACTERS", 30)
    cut = Tokens.open(make_tokens(tmp_path / "cut", latents, TokenizeConfig(tokenizer=TRAIN)))
    assert cut.manifest.digest == whole.manifest.digest
    assert blocks == [2, 2]  # 30 characters, then what is left


def test_a_finished_tokenizer_is_kept_as_it_is(tmp_path: Path, latents: Path) -> None:
    first = make_tokens(tmp_path / "a", latents, TokenizeConfig(tokenizer=TRAIN))
    loaded = TokenizeConfig(tokenizer=PretrainedTokenizer(path=first / "tokenizer.model"))
    second = make_tokens(tmp_path / "b", latents, loaded)
    assert Tokens.open(first).manifest.digest == Tokens.open(second).manifest.digest


def test_documents_without_any_text_cannot_train_a_tokenizer(tmp_path: Path) -> None:
    latents = make_latents(tmp_path / "latents", [Story((None,)), Story(("", None))])
    with pytest.raises(TfcliError, match="no text") as caught:
        make_tokens(tmp_path / "tokens", latents)
    assert caught.value.code == ExitCode.INPUT
    assert not (tmp_path / "tokens").exists()


def test_a_sample_is_in_source_order_and_reaches_every_text() -> None:
    texts = [f"{number:03}" for number in range(100)]
    chosen = [_sampled(iter(texts), 10, seed)[0] for seed in range(100)]
    assert all(sample == sorted(sample) and len(set(sample)) == 10 for sample in chosen)
    counts = [sum(text in sample for sample in chosen) for text in texts]
    assert min(counts) >= 1  # 10 are expected of each
    assert max(counts) <= 25
    assert _sampled(iter(texts), 100, 0) == (texts, 100)


def test_a_group_is_the_hash_of_its_name_whatever_is_in_it() -> None:
    """The number decides the held-out split: it must not change with how it is computed."""
    names = ["plain", 'a "quote"', "back\\slash", "line\nbreak", "\u00e9\u4e2d", "\udc80", ""]
    columns = _Columns()
    coder = TextCoder(train_sentencepiece(["a b"], 300, "bpe"))
    columns.add([_CorpusDocument(name, None, (), "text") for name in names], coder, 1)
    columns.add([_CorpusDocument("key", name, (), "text") for name in names], coder, 1)
    expected = [int(hash_value([kind, name])[:15], 16) for kind in ("key", "group") for name in names]
    arrays = dict(columns.arrays())
    assert arrays["groups"].tolist() == expected
    assert arrays["keys"].tolist() == expected[:7] + [int(hash_value(["key", "key"])[:15], 16)] * 7


def test_blocks_change_nothing(tmp_path: Path, latents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Tokens.open(make_tokens(tmp_path / "whole", latents, TokenizeConfig(tokenizer=TRAIN)))
    monkeypatch.setattr("stages.tokenize_text.stage._BLOCK", 1)
    single = Tokens.open(make_tokens(tmp_path / "single", latents, TokenizeConfig(tokenizer=TRAIN)))
    assert whole.content.num_documents > 1
    assert single.manifest.digest == whole.manifest.digest


def test_texts_that_are_left_out_are_written_down(tmp_path: Path, latents: Path) -> None:
    (tmp_path / "novel.txt").write_bytes(b"once upon a time\nforged \xe2\x96\x81 space\nhalf \xff\nthe end\n")
    corpora = tuple(TextFiles(path=str(tmp_path / "novel.txt"), split="line", name=name) for name in ("a", "b"))
    events: list[Event] = []
    target = make_tokens(
        tmp_path / "tokens", latents, TokenizeConfig(tokenizer=TRAIN, text=corpora), report=events.append
    )
    rows = list(read_jsonl(target / "errors.jsonl"))
    assert [(row["key"], row["reason"]) for row in rows] == [
        ("text0/novel:1", "TEXT_U2581"),
        ("text0/novel:2", "TEXT_NOT_UTF8"),
        ("text1/novel:1", "TEXT_U2581"),
        ("text1/novel:2", "TEXT_NOT_UTF8"),
    ]
    assert Tokens.open(target).manifest.stats["left_out"] == {"TEXT_U2581": 2, "TEXT_NOT_UTF8": 2}
    warnings = [event.text for event in events if isinstance(event, Warn)]
    assert any("4 texts left out" in text and "TEXT_NOT_UTF8" in text for text in warnings)
