"""model.rope_base = "auto": the rule, the number in the checkpoint, and a resume and a fine-tuning with the same number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.artifacts.checkpoint import Checkpoint
from stages.artifacts.sequences import Sequences
from stages.core.errors import ExitCode
from stages.core.events import Event, Note
from stages.model.config import ModelConfig
from stages.model.rotary import rotary_table
from stages.pack_sequences.config import PackConfig
from stages.train_model import rope_base
from stages.train_model.rope_base import CHOICES, rope_base_for, usual_length, with_rope_base
from tests.builders import Story, make_all
from tests.train_model.many import MODEL, TRAIN, Job, Outcome, term, train

AUTO = MODEL.model_copy(update={"rope_base": "auto"})
FILES = ("weights.safetensors", "ema.safetensors", "optimizer.safetensors", "metrics.jsonl")


@pytest.mark.parametrize(
    ("length", "base"), [(0, 100), (30, 100), (100, 100), (101, 300), (2_000, 3_000), (4_096, 10_000), (50_000, 10_000)]
)
def test_the_smallest_choice_that_is_no_less_than_the_length(length: int, base: float) -> None:
    assert rope_base_for(length) == base


def test_one_document_in_a_hundred_may_be_longer() -> None:
    assert usual_length(np.array([30] * 99 + [4000])) == 30
    assert usual_length(np.array([30] * 98 + [4000] * 2)) == 4000


@pytest.mark.parametrize("head", [32, 64, 128])
def test_the_slowest_angle_turns_once_in_about_six_documents(head: int) -> None:
    """As a law of the table of angles: of a document that has the length of the base."""
    for base in CHOICES:
        cos, sin = rotary_table(torch.tensor([1]), head, base)
        turn = 2 * math.pi / math.atan2(float(sin[0, -1]), float(cos[0, -1]))
        assert 3 < turn / base < 2 * math.pi


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of up to some 150 elements, so that the number is not the first choice."""
    folder = tmp_path_factory.mktemp("work")
    stories = [Story((f"a thing {number} " * (1 + number % 6 * 4), None)) for number in range(24)]
    make_all(folder, stories, PackConfig(row_length=256, heldout_fraction=0.2))
    assert train(Job("auto", TRAIN, model=AUTO), folder) == Outcome(0)
    return folder


def derived(work: Path) -> float:
    longest = int(Sequences.open(work / "sequences").split("train").documents[:, 2].max())
    return next(choice for choice in CHOICES if choice >= longest)


def bytes_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def test_the_checkpoint_is_that_of_the_number(work: Path) -> None:
    base = derived(work)
    assert base == 300, "the interesting case: neither the default nor the smallest"
    number = MODEL.model_copy(update={"rope_base": base})
    assert train(Job("number", TRAIN, model=number), work) == Outcome(0)
    assert train(Job("default", TRAIN), work) == Outcome(0)
    auto, other = (Checkpoint.open(work / name) for name in ("auto", "number"))
    assert auto.content == other.content
    assert ModelConfig.model_validate(auto.content.model) == number
    assert bytes_of(auto.folder) == bytes_of(other.folder)
    assert bytes_of(auto.folder) != bytes_of(work / "default"), "the base is at work"


def test_a_training_that_resumes_has_the_same_number(work: Path) -> None:
    stopped = train(Job("stopped", TRAIN, {(0, 3): term}, AUTO), work)
    assert (stopped.code, stopped.why) == (ExitCode.TERMINATED, "state saved at step 3")
    assert train(Job("stopped", TRAIN, model=AUTO), work) == Outcome(0)
    assert bytes_of(work / "stopped") == bytes_of(work / "auto")


def test_processes_that_share_the_steps_get_the_number(work: Path) -> None:
    two = TRAIN.model_copy(update={"processes": 2})
    assert train(Job("two", two, model=AUTO), work) == Outcome(0)
    auto, shared = (Checkpoint.open(work / name) for name in ("auto", "two"))
    assert shared.content == auto.content
    for name, weight in auto.weights().items():
        assert torch.allclose(weight, shared.weights()[name], atol=1e-5), name


def test_a_fine_tuning_takes_the_number_of_its_checkpoint(work: Path) -> None:
    notes: list[Event] = []
    config = TRAIN.model_copy(update={"start_from": str(work / "auto"), "steps": 1})
    number = with_rope_base(AUTO, config.start_from, work / "nothing is read here", notes.append)
    assert number.rope_base == derived(work)
    assert notes == [Note(f"rope_base 300: as in {work / 'auto'}")]
    assert train(Job("tuned", config, model=AUTO), work) == Outcome(0)
    assert Checkpoint.open(work / "tuned").content.model["rope_base"] == derived(work)


def test_a_number_derives_nothing(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("nothing is derived")

    monkeypatch.setattr(rope_base, "usual_length", refuse)
    monkeypatch.setattr(rope_base, "Checkpoint", refuse)
    assert with_rope_base(MODEL, "", work / "sequences", refuse) == MODEL


def test_the_note_says_where_it_is_from(work: Path) -> None:
    notes: list[Event] = []
    with_rope_base(AUTO, "", work / "sequences", notes.append)
    usual = usual_length(Sequences.open(work / "sequences").split("train").documents[:, 2])
    assert notes == [Note(f"rope_base 300: 99 % of the documents have at most {usual} elements")]
