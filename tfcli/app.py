"""The command `tfcli`: root options, the commands, and what becomes of a failure (three lines and an exit code)."""

from __future__ import annotations

import inspect
import io
import os
import select
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn, TextIO

import typer
from typer.core import TyperGroup

from stages.core.errors import ExitCode, TfcliError
from stages.core.runtime import Launch
from stages.core.system import system_failure
from stages.core.version import version_lines
from tfcli import options
from tfcli.commands import artifacts, recipes
from tfcli.commands.doctor import doctor
from tfcli.commands.plan import plan
from tfcli.commands.run import run
from tfcli.commands.stages import add_stages
from tfcli.render import ReaderGone, show, show_error

COMPLETION = "_TFCLI_COMPLETE"  # set by the function that --install-completion gives the shell
ASKS_FOR_COMPLETION = frozenset({"--install-completion", "--show-completion"})


class Commands(TyperGroup):
    """The root group: every way out of a command becomes an exit code of stages.core.errors.ExitCode."""

    def __init__(self, *positional: Any, **options: Any) -> None:
        super().__init__(*positional, **options)
        _join_lines(self)

    def main(self, args: Sequence[str] | None = None, *positional: Any, **options: Any) -> NoReturn:
        """Run one command line and leave the process."""
        given = list(sys.argv[1:] if args is None else args)
        options["standalone_mode"] = False
        if os.environ.get(COMPLETION):  # the shell asks for completions: Typer answers by output and exit code
            super().main(given, *positional, **options)
        try:
            code = super().main(given, *positional, **options) or 0
            if code and not ASKS_FOR_COMPLETION.isdisjoint(given):
                raise _no_such_shell()
            _flush()
        except (ReaderGone, BrokenPipeError):  # 'tfcli inspect work/x | head' has seen enough: nothing went wrong
            code = ExitCode.DONE
        except (
            SystemExit
        ) as leaving:  # Typer's way out when '--help' meets a closed pipe, and once completion is set up
            set_up = leaving.code == 0 and not ASKS_FOR_COMPLETION.isdisjoint(given)
            code = ExitCode.DONE if set_up or isinstance(leaving.__context__, BrokenPipeError) else ExitCode.BUG
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        except typer.Abort:
            code = ExitCode.INTERRUPTED
        except Exception as error:
            if "--debug" in given:
                traceback.print_exc()
            failure = as_failure(error)
            if failure.what:  # empty where Typer has shown the help instead, or another rank speaks
                _show(failure)
            code = failure.code
        for stream in (sys.stdout, sys.stderr):
            _detach(stream)
        sys.exit(int(code))

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command. A broken pipe other than stdout is that of a worker: Typer would end silently."""
        try:
            super().invoke(ctx)
        except BrokenPipeError as error:
            if _reader_is_gone():
                raise ReaderGone from error
            fix = "run the same command again, with fewer --workers if memory was short"
            raise TfcliError("a worker process exited", why=str(error), fix=fix, code=ExitCode.ENVIRONMENT) from error
        return ExitCode.DONE


def _join_lines(command: Any) -> None:
    """Make each paragraph of the help one line, so that it is broken at the width of the terminal alone. Typer keeps line breaks;
    a paragraph behind a \\b stays as it is."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    command.help = "\n\n".join(text if text.startswith("\b") else " ".join(text.splitlines()) for text in paragraphs)
    for each in getattr(command, "commands", {}).values():
        _join_lines(each)


def as_failure(error: Exception) -> TfcliError:
    """What to tell the user of any exception."""
    if isinstance(error, TfcliError):
        return error
    # Typer's own click is private: its usage errors are known by their exit code and their context
    if getattr(error, "exit_code", None) == ExitCode.USAGE and hasattr(error, "format_message"):
        path = getattr(getattr(error, "ctx", None), "command_path", "tfcli")
        what = error.format_message()
        return TfcliError(what, fix=f"see '{path} --help'", code=ExitCode.USAGE)
    text = f"{type(error).__name__}: {error}"
    if (refused := system_failure(error)) is not None:
        return refused
    what = f"internal error: {text}"
    fix = "run the same command with --debug to see the traceback, and report it"
    return TfcliError(what, why="a bug in tfcli", fix=fix, code=ExitCode.BUG)


def _reader_is_gone() -> bool:
    """Whether stdout is a pipe that nobody reads."""
    watch = select.poll()
    watch.register(1, 0)  # POLLERR is always reported
    return any(events & select.POLLERR for _, events in watch.poll(0))


def _no_such_shell() -> TfcliError:
    fix = "run it from bash, zsh, fish or PowerShell"
    return TfcliError("completion for this shell is not known", fix=fix, code=ExitCode.USAGE)


def _show(failure: TfcliError) -> None:
    """What is wrong with the command line, all ranks of a torchrun find alike: the first one says it."""
    rank = Launch.found().rank
    if rank and failure.code != ExitCode.USAGE:
        failure.what = f"rank {rank}: {failure.what}"
    if not rank or failure.code != ExitCode.USAGE:
        show_error(failure)


app = typer.Typer(
    name="tfcli",
    cls=Commands,
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="""Train a Transfusion model: one transformer for text and pictures, from raw files to samples.

    \b
    Start here:  tfcli recipe list           the recipes
                 tfcli run smoke             a whole run in seconds
                 tfcli inspect work/smoke    what it made
                 tfcli doctor my/pictures    what is wrong with your data
                 tfcli doctor                what this machine has and lacks
    """,
)
add_stages(app)
app.command("run", rich_help_panel="Whole runs")(options.with_call(run, options.RecipeArgument))
app.add_typer(recipes.app, name="recipe", rich_help_panel="Whole runs")
app.command("plan", rich_help_panel="Whole runs")(plan)
app.command("doctor", rich_help_panel="Whole runs")(doctor)
artifacts.add_artifacts(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        show(*version_lines())
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the versions of tfcli (with its commit), Python and torch, and the device.",
            callback=_show_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Root options."""


def main() -> None:
    """The entry point of the console script."""
    _open_missing_streams()
    plain = _asked_for_ascii()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a name that the terminal cannot show must not end a run
            stream.reconfigure(encoding="ascii" if plain else None, errors="backslashreplace")
    app(prog_name="tfcli")


def _asked_for_ascii() -> bool:
    """LANG=C. Python itself then sets LC_CTYPE to C.UTF-8 and writes UTF-8; the terminal may not read it."""
    names = [os.environ.get(name, "") for name in ("LC_ALL", "LC_CTYPE", "LANG")]
    own = [name for name in names if name and name not in ("C.UTF-8", "C.utf8", "UTF-8")]
    return bool(own) and own[0] in ("C", "POSIX")


def _open_missing_streams() -> None:
    """Fill closed descriptors 0 to 2 ('>&-'), lest an artifact's file gets number 2 and a library writes into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _detach(stream: TextIO | None) -> None:
    """Turn a broken stream to nowhere, so that the flush at exit does not fail (it would set exit code 120)."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
