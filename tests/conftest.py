"""What all tests share: one thread a process, signals as a terminal gives them, no wait for the disk, and a finished world."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from typing import Protocol

import pytest
import torch
import typer.main

from stages.coders.text import train_sentencepiece
from stages.core.device import matmul_peak
from stages.core.interrupts import Interrupts
from tests.bad_inputs.lab import Shelf

# First: files that take more than 10 s, so that no worker is left alone with one at the end.
LONG_FILES = (
    "tests/test_pipeline.py",
    "tests/bad_inputs/test_table.py",
    "tests/bad_inputs/test_power.py",
    "tests/fuzz/test_fuzz.py",
    "tests/train_model/test_ranks.py",
    "tests/test_packaging.py",
)


class HasFileno(Protocol):
    def fileno(self) -> int: ...


def pytest_configure() -> None:
    """Two workers on two cores: more threads would only wait for each other, here and in the processes that tests start. No
    result may depend on the number of threads, but bits do: a training in this process and one in another are compared."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    # Under nohup or in the background of a script these are ignored, and so they would be in all processes that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


@pytest.fixture(scope="session", autouse=True)
def _disk_that_does_not_wait() -> Iterator[None]:
    """Nothing here outlives a power cut, and flushing took a third of the suite's time. Whether all is flushed that must be is
    tried by tests/bad_inputs/test_power.py, which puts an fsync of its own in this place."""

    def fsync(file: int | HasFileno) -> None:
        os.fstat(file if isinstance(file, int) else file.fileno())  # one that is closed stays an error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


@pytest.fixture(scope="session", autouse=True)
def _done_once() -> Iterator[None]:
    """What is the same each time: the command line as click sees it (20 ms a call), the speed of this processor (0.2 s a
    training), a tokenizer trained on the same texts, which is done here and not in a process of its own (0.5 s each); the process
    is tried by tests/tokenize_text/test_training.py and by the runs of tests/test_pipeline.py."""
    train = functools.cache(train_sentencepiece)

    def train_here(texts: list[str], vocab_size: int, algorithm: str, interrupts: Interrupts, kept: str) -> bytes:
        interrupts.check(kept)
        return train(tuple(texts), vocab_size, algorithm)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", functools.cache(typer.main.get_command))
        for module in ("core.hardware", "train_model.monitor.throughput"):
            patch.setattr(f"stages.{module}.matmul_peak", functools.cache(matmul_peak))
        patch.setattr("stages.tokenize_text.stage.train_in_process", train_here)
        yield


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Worlds that are made when first asked for: an autoencoder, finished stages, a checkpoint. Tests copy them."""
    return Shelf(tmp_path_factory.mktemp("shelf"))
