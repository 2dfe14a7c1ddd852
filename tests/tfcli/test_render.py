"""What people see of events: a heartbeat off a terminal, a bar on one, and nothing that ends the work."""

from __future__ import annotations

import io
import sys

import pytest

from stages.core.events import Event, Note, Passage, Progress, Warn
from tfcli import render
from tfcli.render import Reporter, beat_line, rate_text, seconds_text, size_text


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(render.time, "monotonic", lambda: now[0])
    return now


def test_heartbeat_at_the_start_every_30_s_and_at_the_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Reporter() as report:
        for done in range(101):
            report(Progress("train", done, 100, "steps", {"loss": "1.5"}))
            clock[0] += 1
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(",")[0] for line in err.splitlines()] == [
        "train: 0/100 steps",
        "train: 30/100 steps (30%)",
        "train: 60/100 steps (60%)",
        "train: 90/100 steps (90%)",
        "train: 100/100 steps (100%)",
    ]
    assert "1.0 steps/s, 1 min 10 s left, loss 1.5" in err
    assert "took 1 min 40 s" in err


def test_hundredths_of_all_are_told_in_percent(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter() as report:
        for done in (0, 35, 100):
            report(Progress("draw", done, 100, "% of 2 pictures"))
            clock[0] += 40
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "draw: 0 % of 2 pictures",
        "draw: 35 % of 2 pictures, 1 min 14 s left",
        "draw: 100 % of 2 pictures, took 1 min 20 s",
    ]


def test_a_stopped_task_tells_how_far_it_came(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter() as report:
        report(Progress("train", 500, 1000, "steps"))  # resumed: the first 500 took no time here
        clock[0] += 10
        report(Progress("train", 510, 1000, "steps"))
    assert "train: 510/1,000 steps (51%), 1.0 steps/s, 8 min 10 s left" in capsys.readouterr().err


PASSAGES = (
    Passage("1: [b]a cat", text="[i]black"),
    Passage("1: [b]a cat", text=" one\x1b[5m\n"),
    Progress("draw", 5, 100, "% of 2 pictures"),
    Progress("draw", 100, 100, "% of 2 pictures"),
    Passage("1: [b]a cat", picture="images/1.png"),
    Passage("1: [b]a cat", text="yes", ended="eos"),
    Passage("2: a dog", ended="images", limit="image limit"),
    Note("done"),
)


def test_documents_are_lines_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter() as report:
        for event in PASSAGES:
            report(event)
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("draw:")]
    assert lines == [
        "1: [b]a cat -> [i]black one\\x1b[5m\\n [images/1.png] yes",
        "2: a dog -> nothing (image limit)",
        "done",
    ]
    with Reporter(quiet=True) as report:
        report(PASSAGES[0])
        report(PASSAGES[6])
    assert capsys.readouterr().err == ""


def test_text_appears_on_a_terminal_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    text = _on_terminal(monkeypatch, *PASSAGES, seen=seen, TERM="xterm-256color", NO_COLOR="1", COLUMNS="200")
    assert seen[0].endswith("[i]black")
    assert seen[1].endswith("[i]black one\\x1b[5m\n")
    order = [
        text.index(word)
        for word in ("1: [b]a cat", "[i]black one", "100 % of 2 pictures", "[images/1.png]", "yes", "2: a dog")
    ]
    assert order == sorted(order)
    assert "\x1b[5m" not in text
    assert text.count("1: [b]a cat") == 1
    assert text.count("(image limit)") == 1
    assert text.rstrip().endswith("done")


def test_quiet_leaves_the_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(quiet=True) as report:
        report(Note("hello"))
        report(Warn("[red]beware[/red]\x1b[31m\nof this"))
        report(Progress("x", 1, 1, "y"))
    assert capsys.readouterr().err == "warning: [red]beware[/red]\\x1b[31m\\nof this\n"


BAR = (
    Progress("[b]draw", 1, 4, "things", {"[x]": "\x1b[5m"}),
    Note("[i]a note"),
    Progress("[b]draw", 4, 4, "things"),
)


def _on_terminal(monkeypatch: pytest.MonkeyPatch, *events: Event, seen: list[str] | None = None, **env: str) -> str:
    """What stands on a terminal after the events (those of BAR by default); seen: and after each of them."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("NO_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with Reporter() as report:
        for event in events or BAR:
            report(event)
            if seen is not None:
                seen.append(stream.getvalue())
    return stream.getvalue()


@pytest.mark.parametrize("columns", ["20", "120"])
def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    text = _on_terminal(monkeypatch, TERM="xterm-256color", COLUMNS=columns)
    assert "[b]" in text
    assert "[i]a note" in text
    assert "\x1b[5m" not in text
    assert text.endswith(("\n", "\x1b[?25h"))


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    text = _on_terminal(monkeypatch, TERM="dumb")
    assert "\x1b" not in text
    assert "[b]draw: 4/4 things (100%)" in text


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    text = _on_terminal(monkeypatch, TERM="xterm-256color", NO_COLOR="1")
    assert "\x1b[3" not in text.replace("\x1b[3A", "")


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(5, "Input/output error")])
def test_a_lost_stderr_does_not_end_the_work(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    class Broken(io.StringIO):
        def write(self, _text: str) -> int:
            raise error

    monkeypatch.setattr(sys, "stderr", Broken())
    with Reporter() as report:
        report(Note("one"))
        report(Progress("x", 0, 2, "y"))
        report(Warn("two"))


def test_numbers_for_people() -> None:
    assert [seconds_text(s) for s in (0.04, 12.4, 200, 3725)] == ["0.0 s", "12 s", "3 min 20 s", "1 h 02 min"]
    assert [rate_text(r, "steps") for r in (1234.5, 0.25)] == ["1,234.5 steps/s", "4.0 s/step"]
    assert [size_text(n) for n in (0, 1023, 1536, 3 << 30)] == ["0 bytes", "1,023 bytes", "1.5 KiB", "3.0 GiB"]
    assert beat_line(Progress("t", 0, 0, "u"), 0.0, 0) == "t: 0/0 u, took 0.0 s"
