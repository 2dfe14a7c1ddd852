"""Reading pictures in worker processes: the order stays, and a picture that kills or blocks its process costs itself."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stages.coders.config import Images
from stages.coders.pixels import PixelPolicy, Pixels
from stages.sources import decoding
from stages.sources.decoding import PictureReader

IMAGES = Images(size=16, policy=PixelPolicy(max_seconds=0.5))


@dataclass(frozen=True)
class Drawn:
    """A grey picture; reading it may end the process, or take for ever. fate "/path": it ends once, and leaves that file."""

    grey: int
    fate: str = ""

    def read(self) -> Pixels:
        if self.fate.startswith("/") and not os.path.exists(self.fate):
            Path(self.fate).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fate == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.fate.startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, self.fate))
        if self.fate == "hang":
            time.sleep(600)
        return np.full((16, 16, 3), self.grey, np.uint8)


def outcome(workers: int, fates: dict[int, str], count: int = 100) -> list[int | str]:
    """Of each picture its grey value, or the reason why there is none."""
    drawn = [Drawn(number, fates.get(number, "")) for number in range(count)]
    with PictureReader(IMAGES, workers) as reader:
        return [
            fitted.reason if fitted.pixels is None else int(fitted.pixels[0, 0, 0]) for fitted in reader.read(drawn)
        ]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_order_is_that_of_the_source(workers: int) -> None:
    assert outcome(workers, {}) == list(range(100))


def test_a_crash_costs_one_picture() -> None:
    expected: list[int | str] = list(range(100))
    expected[3] = expected[57] = "DECODER_CRASHED"
    assert outcome(2, {3: "crash", 57: "crash"}) == expected


def test_a_process_that_is_killed_once_costs_no_picture(tmp_path: Path) -> None:
    """As the kernel does where memory is short: it picks a process, and any picture may be the one at hand."""
    fates = {place: str(tmp_path / str(place)) for place in (0, 3, 4, 57)}
    expected: list[int | str] = list(range(100))
    expected[5] = "DECODER_CRASHED"
    assert outcome(2, {**fates, 5: "crash"}) == expected
    assert len(list(tmp_path.iterdir())) == len(fates)


def test_a_signal_to_all_processes_costs_no_picture() -> None:
    """Slurm and 'kill -- -GROUP' end the workers too: what they were at must not be written down as damaged."""
    assert outcome(1, {3: "SIGTERM", 21: "SIGINT", 40: "SIGHUP"}, 60) == list(range(60))


def test_a_picture_that_never_ends_costs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_START_SECONDS", 5.0)
    expected: list[int | str] = list(range(40))
    expected[20] = "DECODER_TIMEOUT"
    assert outcome(1, {20: "hang"}, 40) == expected


def test_a_reader_serves_several_times_and_may_be_left_early() -> None:
    with PictureReader(IMAGES, 1) as reader:
        first = next(iter(reader.read([Drawn(number) for number in range(200)])))
        assert first.pixels is not None
        assert [fitted.pixels is not None for fitted in reader.read([Drawn(7)])] == [True]
