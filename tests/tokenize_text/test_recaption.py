"""Other captions by key: the right documents get them, the tokenizer sees them, and so does who shows held-out documents."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stages.artifacts.latents import StoredText
from stages.artifacts.manifest import open_artifact
from stages.artifacts.tokens import Tokens
from stages.core.errors import ExitCode, TfcliError
from stages.generation.heldout import heldout_documents
from stages.tokenize_text.config import TokenizeConfig, TrainTokenizer
from tests.builders import Story, make_latents, make_tokens
from tests.tokenize_text.test_stage import read_back

STORIES = [
    Story(("old words", None)),
    Story((None, "picture first", None), fixed_order=True),
    Story((None,)),
    Story(("kept", None)),
    Story((None, "after the picture"), fixed_order=True),
    Story(("before ", None, " and after"), fixed_order=True),
]


def retold(tmp_path: Path, *rows: dict[str, Any], name: str = "new.jsonl") -> Tokens:
    latents = tmp_path / "latents"
    if not latents.exists():
        make_latents(latents, STORIES)
    path = tmp_path / name
    if name.endswith(".csv"):
        path.write_text("key,text\n" + "".join(f"{row['key']},{row['text']}\n" for row in rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = TokenizeConfig(tokenizer=TrainTokenizer(vocab_size=400), captions=str(path))
    return Tokens.open(make_tokens(tmp_path / f"tokens{len(list(tmp_path.iterdir()))}", latents, config))


@pytest.mark.parametrize("name", ["new.jsonl", "new.csv"])
def test_the_text_of_a_pair_is_replaced_and_a_bare_picture_gets_one(tmp_path: Path, name: str) -> None:
    rows = [{"key": "d0", "text": "xylophone"}, {"key": "d2", "text": "a new one"}, {"key": "d4", "text": "later"}]
    tokens = retold(tmp_path, *rows, name=name)
    assert read_back(tokens) == [
        ["xylophone", (0, 0, 1)],
        [(1, 0, 1), "picture first", (2, 0, 1)],
        ["a new one", (3, 0, 1)],
        ["kept", (4, 0, 1)],
        [(5, 0, 1), "later"],
        ["before ", (6, 0, 1), " and after"],
    ]
    assert tokens.manifest.stats["captions_replaced"] == 3
    assert len(tokens.text_coder().encode("xylophone")) < 9  # the tokenizer learned from it
    assert tokens.captions() == {0: "xylophone", 2: "a new one", 4: "later"}


def test_held_out_documents_are_shown_with_their_new_captions(tmp_path: Path) -> None:
    tokens = retold(tmp_path, {"key": "d0", "text": "new"}, {"key": "d2", "text": "also new"})
    from stages.artifacts.latents import Latents

    sequences = SimpleNamespace(heldout_documents=lambda: [0, 2, 3])
    loaded: Any = SimpleNamespace(tokens=tokens, latents=Latents.open(tmp_path / "latents"), sequences=sequences)
    shown = [
        [part.text for part in document.segments if isinstance(part, StoredText)]
        for document in heldout_documents(loaded)
    ]
    assert shown == [["new"], ["also new"], ["kept"]]


def test_an_empty_caption_takes_the_text_away(tmp_path: Path) -> None:
    assert read_back(retold(tmp_path, {"key": "d0", "text": " "}))[0] == [(0, 0, 1)]


def test_captions_without_a_document_are_told(tmp_path: Path) -> None:
    tokens = retold(tmp_path, {"key": "d0", "text": "x"}, {"key": "nobody", "text": "y"})
    assert tokens.manifest.stats["captions_replaced"] == 1
    with pytest.raises(TfcliError, match="none of its 1 keys") as caught:
        retold(tmp_path, {"key": "nobody", "text": "y"})
    assert caught.value.code == ExitCode.INPUT
    assert "'nobody' in line 1" in caught.value.why


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([{"key": "d1", "text": "x"}], r"new.jsonl:1: d1 has 2 pictures and 1 texts"),
        ([{"key": "d5", "text": "x"}], r"new.jsonl:1: d5 has 1 pictures and 2 texts"),
        ([{"key": "d0", "text": "x"}, {"key": "d0", "text": "y"}], r"new.jsonl:2: key d0 again, first in line 1"),
        ([{"key": "d0", "text": "a\u2581b"}], r"new.jsonl:1: TEXT_U2581"),
        ([{"name": "d0", "text": "x"}], r"new.jsonl:1: no key \(found name, text\)"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, rows: list[dict[str, Any]], what: str) -> None:
    with pytest.raises(TfcliError, match=what):
        retold(tmp_path, *rows)


def test_a_recaptioned_run_is_another_run(tmp_path: Path) -> None:
    first = retold(tmp_path, {"key": "d0", "text": "x"})
    second = retold(tmp_path, {"key": "d0", "text": "z"})
    assert first.manifest.digest != second.manifest.digest
    assert open_artifact(first.folder, "tokens").digest == first.manifest.digest
