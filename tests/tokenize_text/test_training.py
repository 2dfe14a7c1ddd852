"""A tokenizer trained in a process of its own is the same one; a signal ends it at once, and its death is told."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from threading import Timer

import pytest

from stages.coders.text import train_sentencepiece
from stages.core.errors import ExitCode, TfcliError
from stages.core.interrupts import Interrupts
from stages.tokenize_text import training
from stages.tokenize_text.training import train_in_process

TEXTS = ["a red circle", "", "the end\n\tof it", "\U0001f9a6"] * 20


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_model_is_that_of_training_here(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_BLOCK", block)
    for algorithm in ("bpe", "unigram"):
        here = train_sentencepiece(TEXTS, 300, algorithm)
        assert train_in_process(TEXTS, 300, algorithm, Interrupts(), "") == here


def test_what_is_wrong_with_the_texts_is_told_as_ever() -> None:
    with pytest.raises(TfcliError, match="no text to train") as caught:
        train_in_process(["", ""], 300, "bpe", Interrupts(), "")
    assert (caught.value.code, caught.value.why) == (ExitCode.INPUT, "every text is empty")
    assert not multiprocessing.active_children()


def _without_end(pipe: Connection, _vocab_size: int, _algorithm: str) -> None:
    """In place of a training that takes hours."""
    while pipe.recv():
        pass
    time.sleep(600)


def _dead(pipe: Connection, _vocab_size: int, _algorithm: str) -> None:
    """In place of one that takes all memory."""
    pipe.recv()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_long_training(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_serve", _without_end)
    interrupts = Interrupts()
    Timer(0.5, lambda: setattr(interrupts, "signal_number", number)).start()
    began = time.monotonic()
    with pytest.raises(TfcliError, match=f"stopped by {number.name}") as caught:
        train_in_process(TEXTS, 300, "bpe", interrupts, "nothing to save")
    assert time.monotonic() - began < 5
    assert caught.value.why == "nothing to save"
    assert not multiprocessing.active_children()


def test_a_training_that_is_killed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_serve", _dead)
    with pytest.raises(TfcliError, match="was ended") as caught:
        train_in_process(TEXTS * 1000, 300, "bpe", Interrupts(), "")
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert "exit code -9" in caught.value.why


def test_nothing_trains_on_when_the_program_is_killed() -> None:
    """Its thread ends the process, though SentencePiece would go on for a while."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("forkserver").Process(target=training._serve, args=(theirs, 30_000, "bpe"))
    process.start()
    theirs.close()
    words = [f"{number * 7919 % 100_003:05d}{number:06d}" for number in range(60_000)]
    ours.send(words)
    ours.send([])
    ours.close()
    process.join(10)
    assert process.exitcode == 1
