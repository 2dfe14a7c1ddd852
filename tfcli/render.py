"""All of rich: what people see. Events of a running stage go to stderr, results to stdout.

On a terminal a progress bar with rate and ETA; elsewhere (a log, TERM=dumb) a plain line when a task starts, every 30 s
and when it ends. Text of the user is shown with its control characters escaped and never read as markup.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from stages.core.errors import TfcliError
from stages.core.events import Event, Note, Passage, Progress, Warn
from stages.core.text import printable

HEARTBEAT_SECONDS = 30.0
REDRAW_SECONDS = 0.1
_LONGEST_LIST = 100  # characters of a list that is written out
WIDTH_OFF_TERMINAL = 240  # columns; a log or a pipe has no edge at which lines should break


class ReaderGone(Exception):
    """Nobody reads stdout any more."""


class Screen(Console):
    """A console for stderr that falls silent when nobody reads it; rich would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def screen() -> Screen:
    """stderr without markup, highlighting or emoji codes."""
    return Screen(stderr=True, markup=False, highlight=False, emoji=False)


@dataclass
class _Beat:
    """What is known of a task off a terminal: where it began and what was last said."""

    began: float
    first: int
    spoke: float
    last: Progress
    printed: bool = True


class Reporter:
    """A listener for the events of a stage; a context manager that leaves the terminal clean."""

    def __init__(self, *, quiet: bool = False, silent: bool = False) -> None:
        """quiet: warnings only. silent: nothing."""
        self._quiet = quiet or silent
        self._silent = silent
        self._console = screen()
        self._bars: Bars | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal and not quiet:
            self._bars = _bars(self._console)
        self._tasks: dict[str, TaskID] = {}
        self._beats: dict[str, _Beat] = {}
        self._drawn = 0.0
        self._passages: list[str] = []  # of the document that a model is writing, off a terminal
        self._open = ""  # the document whose line is not ended yet, on one

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            for beat in self._beats.values():
                self._say_beat(beat)
            if self._bars and self._tasks:
                self._bars.refresh()
                self._bars.stop()
        except OSError:
            self._console.quiet = True

    def __call__(self, event: Event) -> None:
        # a closed or broken stderr must not end three days of training
        try:
            self._show(event)
        except OSError:
            self._console.quiet = True

    def _show(self, event: Event) -> None:
        if self._silent:
            return
        if isinstance(event, Warn):
            self._line(f"warning: {event.text}", "yellow")
        elif self._quiet:
            return
        elif isinstance(event, Note):
            self._line(event.text, "")
        elif isinstance(event, Passage):
            self._stream(event) if self._bars else self._collect(event)
        elif self._bars:
            self._draw(self._bars, event)
        else:
            self._beat(event)

    def _collect(self, passage: Passage) -> None:
        """Off a terminal: a line for each document when it is finished."""
        self._passages.append(printable(passage.text) if passage.text else "")
        self._passages.append(f" [{passage.picture}] " if passage.picture else "")
        if passage.ended:
            text = " ".join("".join(self._passages).split())
            self._passages.clear()
            limit = f" ({passage.limit})" if passage.limit else ""
            self._line(f"{passage.document} -> {text or 'nothing'}{limit}", "")

    def _stream(self, passage: Passage) -> None:
        """On a terminal: text as it is written. Bars make room for it: they would draw over a line that is not ended."""
        if self._tasks and self._bars:
            self._bars.stop()
            self._bars, self._tasks = _bars(self._console), {}
        if self._open != passage.document:
            self._open = passage.document
            self._console.print(Text(printable(passage.document), "bold"), soft_wrap=True)
        if passage.text:
            lines = "\n".join(printable(line) for line in passage.text.split("\n"))
            self._console.print(Text(lines), end="", soft_wrap=True)
        if passage.picture:
            self._console.print(Text(f"\n[{printable(passage.picture)}]", "cyan"), soft_wrap=True)
        if passage.ended:
            self._console.print(Text(f" ({passage.limit})" if passage.limit else "", "dim"), soft_wrap=True)
            self._open = ""

    def _line(self, text: str, style: str) -> None:
        if self._open:
            self._console.print()
            self._open = ""
        self._console.print(Text(printable(text), style), soft_wrap=True)

    def _draw(self, bars: Bars, event: Progress) -> None:
        if not self._tasks:
            bars.start()
        if event.task not in self._tasks:
            self._tasks[event.task] = bars.add_task(
                printable(event.task), total=event.total, unit=event.unit, amount="", more=""
            )
        task, amount = self._tasks[event.task], amount_text(event)
        bars.update(task, total=event.total, completed=event.done, amount=amount, more=_fields(event))
        now = time.monotonic()
        if now - self._drawn >= REDRAW_SECONDS or event.done >= event.total:
            self._drawn = now
            bars.refresh()

    def _beat(self, event: Progress) -> None:
        now = time.monotonic()
        beat = self._beats.get(event.task)
        # a task that starts over (the next epoch, the next shard) begins a new clock
        if beat is None or event.done < beat.last.done:
            self._beats[event.task] = _Beat(now, event.done, now, event)
            self._line(f"{event.task}: {amount_text(event)}", "")
            return
        beat.printed = beat.printed and event.done == beat.last.done
        beat.last = event
        if now - beat.spoke >= HEARTBEAT_SECONDS or event.done >= event.total:
            self._say_beat(beat)

    def _say_beat(self, beat: _Beat) -> None:
        if beat.printed:
            return
        now = time.monotonic()
        beat.printed, beat.spoke = True, now
        self._line(beat_line(beat.last, now - beat.began, beat.last.done - beat.first), "")


def beat_line(event: Progress, elapsed: float, done: int) -> str:
    """The heartbeat of a task: `done` units took `elapsed` seconds in this process."""
    rate = done / elapsed if elapsed > 0 else 0.0
    in_percent = event.unit.startswith("%")
    share = f" ({100 * event.done // event.total}%)" if event.total and not in_percent else ""
    parts = [f"{event.task}: {amount_text(event)}{share}"]
    if rate > 0 and not in_percent:
        parts.append(rate_text(rate, event.unit))
    if event.done >= event.total:
        parts.append(f"took {seconds_text(elapsed)}")
    elif rate > 0:
        parts.append(f"{seconds_text((event.total - event.done) / rate)} left")
    if event.fields:
        parts.append(_fields(event))
    return ", ".join(parts)


def amount_text(event: Progress) -> str:
    """What is done of how much: "7/20 pictures", or "35 % of 20 pictures" where units are hundredths of all."""
    if event.unit.startswith("%"):
        return f"{100 * event.done // event.total} {event.unit}"
    return f"{event.done:,}/{event.total:,} {event.unit}"


def rate_text(rate: float, unit: str) -> str:
    """Units a second, or seconds a unit where that is the number above 1."""
    return f"{rate:,.1f} {unit}/s" if rate >= 1 else f"{1 / rate:,.1f} s/{unit.removesuffix('s')}"


def seconds_text(seconds: float) -> str:
    """A duration for people: 0.3 s, 12 s, 3 min 20 s, 5 h 02 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size_text(num_bytes: int) -> str:
    """A file size for people, in powers of 1024."""
    size, units = float(num_bytes), ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:,.0f} {units[0]}" if units[0] == "bytes" else f"{size:,.1f} {units[0]}"


def value_text(value: Any) -> str:
    """A value of a manifest or a recipe on one line, floats to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return printable(value) if isinstance(value, str) else printable(json.dumps(value, ensure_ascii=False, default=str))


def people_text(value: Any) -> str:
    """A value of a manifest for reading: numbers rounded and grouped, lists and tables without their brackets."""
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(
            f"{printable(str(key))} {people_text(below)}" for key, below in value.items() if below is not None
        )
    if isinstance(value, list):
        return _list_text(value)
    return printable(str(value))


def _list_text(values: list[Any]) -> str:
    numbers = all(isinstance(value, int | float) for value in values)
    text = ("; " if any(isinstance(value, dict) for value in values) else ", ").join(map(people_text, values))
    if len(text) <= _LONGEST_LIST:
        return text
    if numbers:
        return f"{len(values)} numbers from {people_text(min(values))} to {people_text(max(values))}"
    last = people_text(values[-1])
    return f"{len(values)} entries" + (f", the last: {last}" if len(last) <= _LONGEST_LIST else "")


def short(hexadecimal: str) -> str:
    """The first twelve digits of a hash."""
    return hexadecimal[:12]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one table with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found.update(flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value})
    return found


def pairs(values: dict[str, Any]) -> Table:
    """Keys and values in two columns. Nested tables are named by dotted keys; long lists are summed up."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in flat(values).items():
        table.add_row(Text(f"  {printable(key)}"), Text(people_text(value)))
    return table


def rows(header: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> Table:
    """A plain table; the last column takes what is left of the line."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in header:
        table.add_column(name, overflow="fold", no_wrap=name != header[-1])
    for line in lines:
        table.add_row(*[Text(printable(cell)) for cell in line])
    return table


def tree(label: str) -> Tree:
    """The root of a tree; add branches with `branch`."""
    return Tree(Text(printable(label)))


def branch(parent: Tree, label: str) -> Tree:
    """Add a line below `parent`."""
    return parent.add(Text(printable(label)))


def styled(*pieces: tuple[str, str]) -> Text:
    """A line of (text, style) pieces; styles show on a terminal only, so the words must say it all."""
    return Text.assemble(*[(printable(text), style) for text, style in pieces])


def show(*parts: Table | Tree | Text | str) -> None:
    """Print results for people on stdout."""
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH_OFF_TERMINAL
    with console.capture() as captured:
        for part in parts:
            text = Text(printable(part)) if isinstance(part, str) else part
            console.print(text, soft_wrap=isinstance(text, Text))
    show_text("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def show_text(text: str) -> None:
    """Print text that is a result as it is (TOML, a list of sums)."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderGone from error


def show_json(value: dict[str, Any]) -> None:
    """Print one JSON object on stdout. ASCII, so that it is the same text in every locale."""
    show_text(json.dumps(value, indent=1, default=str) + "\n")


def show_path(path: Path) -> None:
    """Print a path for a script: its own bytes, whatever they are."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        raise ReaderGone from error


def show_error(error: TfcliError) -> None:
    """The three lines of a failure on stderr."""
    console = screen()
    for name, text in (("error", error.what), ("why", error.why), ("fix", error.fix)):
        if text:
            console.print(
                Text.assemble((f"{name}:", "bold red" if name == "error" else "bold"), " ", printable(text)),
                soft_wrap=True,
            )


class _Rate(ProgressColumn):
    """Units a second over the last 30 s."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields["unit"]
        return Text(rate_text(speed, unit) if speed and not unit.startswith("%") else "")


def _bars(console: Console) -> Bars:
    # no thread: drawn when an event comes, so that worker processes may fork at any time
    return Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[amount]}", markup=False),
        _Rate(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[more]}", markup=False),
        console=console,
        auto_refresh=False,
        redirect_stdout=False,
    )


def _fields(event: Progress) -> str:
    return printable(", ".join(f"{name} {value}" for name, value in event.fields.items()))
