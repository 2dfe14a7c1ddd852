"""A signal sets a flag, the second Ctrl-C ends the process at once, and the old handlers come back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from stages.core.errors import ExitCode, TfcliError
from stages.core.interrupts import Interrupts, watch_signals

SCRIPT = """
import os, signal
from stages.core.interrupts import watch_signals
with watch_signals() as interrupts:
    os.kill(os.getpid(), signal.{first})
    assert interrupts.requested
    print("first", flush=True)
    try:
        os.kill(os.getpid(), signal.{second})
    finally:
        print("second", flush=True)
"""


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, ExitCode.INTERRUPTED),
        (signal.SIGTERM, ExitCode.TERMINATED),
        (signal.SIGHUP, ExitCode.TERMINATED),
    ],
)
def test_a_signal_is_noticed_at_the_next_check(number: signal.Signals, code: ExitCode) -> None:
    with watch_signals() as interrupts:
        interrupts.check()
        assert not interrupts.requested
        os.kill(os.getpid(), number)
        assert interrupts.requested
        with pytest.raises(TfcliError, match=number.name) as caught:
            interrupts.check("all is saved")
    assert caught.value.code == code
    assert caught.value.why == "all is saved"


def test_a_signal_ends_work_without_state_where_it_meets_it() -> None:
    went_on: list[int] = []

    def work(interrupts: Interrupts, number: int | None) -> None:
        with interrupts.at_once("nothing was begun"):
            if number is not None:
                os.kill(os.getpid(), number)
            went_on.append(1)

    with watch_signals() as interrupts:
        with pytest.raises(TfcliError, match="SIGTERM") as caught:
            work(interrupts, signal.SIGTERM)
        assert caught.value.why == "nothing was begun"
        os.kill(os.getpid(), signal.SIGTERM)  # outside the block it only sets the flag
        with pytest.raises(TfcliError):
            work(interrupts, None)  # which is seen at the start of the next one
    assert went_on == []


def test_the_old_handlers_come_back_even_after_an_error() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with watch_signals():
        assert all(signal.getsignal(number) != old for number, old in zip(numbers, before, strict=True))
    assert [signal.getsignal(number) for number in numbers] == before
    with pytest.raises(KeyError), watch_signals():
        raise KeyError
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize(
    ("first", "second", "code", "shown"),
    [
        ("SIGINT", "SIGINT", ExitCode.INTERRUPTED, ["first"]),
        ("SIGTERM", "SIGTERM", 0, ["first", "second"]),
        ("SIGTERM", "SIGINT", 0, ["first", "second"]),
    ],
)
def test_only_a_second_ctrl_c_ends_the_process_at_once(first: str, second: str, code: int, shown: list[str]) -> None:
    script = SCRIPT.format(first=first, second=second)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert (done.returncode, done.stdout.split()) == (code, shown)


def test_another_thread_gets_a_flag_without_handlers() -> None:
    before = signal.getsignal(signal.SIGINT)
    found: list[Interrupts] = []

    def watch() -> None:
        with watch_signals() as interrupts:
            assert signal.getsignal(signal.SIGINT) == before
            found.append(interrupts)

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert [interrupts.requested for interrupts in found] == [False]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(number: signal.Signals) -> None:
    """As 'nohup' does with SIGHUP, and a shell with SIGINT for what runs in the background."""
    script = f"""
import os, signal
from stages.core.interrupts import watch_signals
with watch_signals() as interrupts:
    os.kill(os.getpid(), {int(number)})
    print(interrupts.requested)
"""
    for ignored in (True, False):

        def begin(how: signal.Handlers = signal.SIG_IGN if ignored else signal.SIG_DFL) -> None:
            signal.signal(number, how)

        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False, preexec_fn=begin
        )
        assert (done.returncode, done.stdout.strip()) == (0, str(not ignored)), done.stderr
