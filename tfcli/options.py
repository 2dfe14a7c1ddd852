"""The options that commands share: one name means one thing everywhere."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from stages.core.device import check_device
from stages.core.errors import ExitCode, TfcliError
from stages.core.runtime import Runtime

_RECIPE = "Recipe"
_MACHINE = "Machine (cannot change the result)"
_OUTPUT = "Output"
_ACTION = "Action"
# What stands for an option that is not typed. An empty variable is none.
WORK_VARIABLE = "TFCLI_WORK"
DEVICE_VARIABLE = "TFCLI_DEVICE"


def recipe_names(incomplete: str) -> list[str]:
    """For completion by the shell, which offers files where no name fits."""
    from stages.recipe import named_recipes

    return sorted(name for name in named_recipes() if name.startswith(incomplete))


RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe",
        "-r",
        metavar="RECIPE",
        help="A recipe's name ('tfcli recipe list') or file.",
        rich_help_panel=_RECIPE,
        autocompletion=recipe_names,
    ),
]
RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe's name ('tfcli recipe list') or file.",
        show_default=False,
        autocompletion=recipe_names,
    ),
]
OtherRecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="OTHER", help="The one to compare it with.", show_default=False, autocompletion=recipe_names
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one key of the recipe, such as train.steps=100. May be repeated.",
        rich_help_panel=_RECIPE,
    ),
]
WorkOption = Annotated[
    Path | None,
    typer.Option(
        "--work",
        metavar="FOLDER",
        help="The folder of the artifacts, one folder for each kind. Default: work/NAME-OF-THE-RECIPE.",
        show_default=False,
        rich_help_panel=_RECIPE,
        envvar=WORK_VARIABLE,
    ),
]


def from_environment(context: typer.Context, parameter: str) -> bool:
    """Whether nobody typed an option, and its environment variable gave the value."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "ENVIRONMENT"


def is_typed(context: typer.Context, parameter: str) -> bool:
    """Whether an option or argument was given on the command line."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


def _checked_device(context: typer.Context, value: str) -> str:
    """Checked also where everything is fresh and nothing would ask for it."""
    try:
        if not context.resilient_parsing:  # while the shell completes a line
            check_device(value)
    except TfcliError as error:
        if from_environment(context, "device"):
            fix = f"set {DEVICE_VARIABLE} to auto, cpu, cuda or cuda:0, or unset it"
            raise TfcliError(f"{DEVICE_VARIABLE}={value}: no such device", fix=fix, code=error.code) from error
        raise
    return value


DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="auto, cpu, cuda or cuda:N.",
        rich_help_panel=_MACHINE,
        envvar=DEVICE_VARIABLE,
        callback=_checked_device,
    ),
]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=0, help="Processes that decode pictures; 0: none.", rich_help_panel=_MACHINE)
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object.", rich_help_panel=_OUTPUT)
]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print the artifact's path, warnings and errors only.", rich_help_panel=_OUTPUT),
]
VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Also print folders, hashes and all statistics.", rich_help_panel=_OUTPUT),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the Python traceback of an error.", rich_help_panel=_OUTPUT)
]
DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", "-n", help="Say what would run and why, and do nothing.", rich_help_panel=_ACTION),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Make it again even where it is fresh.", rich_help_panel=_ACTION)
]
ReplaceOption = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Replace a finished training, and delete saves, whose settings or inputs have changed. Without it that is refused.",
        rich_help_panel=_ACTION,
    ),
]
ShardsOption = Annotated[
    str,
    typer.Option(
        "--shards",
        metavar="I/N",
        help="Do the I-th of N parts of the work; N processes, here or elsewhere, may run at once. The last one seals.",
        rich_help_panel=_MACHINE,
    ),
]
RetryFailedOption = Annotated[
    bool,
    typer.Option(
        "--retry-failed",
        help="Make the shards again that have failed pictures or damaged files, and keep the others.",
        rich_help_panel=_MACHINE,
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help="local, or ray: --workers processes on a Ray cluster (RAY_ADDRESS, else this machine).",
        rich_help_panel=_MACHINE,
    ),
]
ArtifactArgument = Annotated[
    Path, typer.Argument(metavar="PATH", help="The folder of an artifact, or a work folder.", show_default=False)
]


@dataclass(frozen=True)
class Call:
    """The options of one call, as typed. recipe: None only where a command does without. work_typed: False where `work` is of
    the environment, which an artifact that is named by its folder goes before."""

    recipe: str | None
    settings: tuple[str, ...]
    work: Path | None
    device: str
    workers: int
    json: bool
    quiet: bool
    verbose: bool
    dry_run: bool
    force: bool
    replace: bool = False
    work_typed: bool = True

    def __post_init__(self) -> None:
        if self.json + self.quiet > 1 or self.quiet + self.verbose > 1:
            given = [name for name in ("json", "quiet", "verbose") if getattr(self, name)]
            what = " and ".join(f"--{name}" for name in given) + " exclude each other"
            raise TfcliError(what, fix="leave one of them out", code=ExitCode.USAGE)


def _call(
    context: typer.Context,
    recipe: RecipeOption,
    settings: SetOption = None,
    work: WorkOption = None,
    device: DeviceOption = Runtime.device,
    workers: WorkersOption = Runtime.workers,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    _debug: DebugOption = False,
    dry_run: DryRunOption = False,
    force: ForceOption = False,
    replace: ReplaceOption = False,
) -> Call:
    """What every command that makes artifacts takes: Typer reads the options off this signature."""
    typed = not from_environment(context, "work")
    return Call(
        recipe, tuple(settings or ()), work, device, workers, json, quiet, verbose, dry_run, force, replace, typed
    )


def with_call(
    command: Callable[..., None], recipe: Any = RecipeOption, default: Any = inspect.Parameter.empty
) -> Callable[..., None]:
    """`command` as Typer should see it: the shared options in place of its parameter `call`.

    Its own parameters before `call` are listed behind --work, those after it at the end. recipe: option or argument, and its
    default where it may be left out.
    """
    shared = dict(inspect.signature(_call, eval_str=True).parameters)
    shared["recipe"] = shared["recipe"].replace(annotation=recipe, default=default)
    own = list(inspect.signature(command, eval_str=True).parameters.values())
    index = next(index for index, parameter in enumerate(own) if parameter.name == "call")
    named = list(shared.values())
    behind_work = list(shared).index("work") + 1
    order = [*named[:behind_work], *own[:index], *named[behind_work:], *own[index + 1 :]]

    def wrapped(**given: Any) -> None:
        call = _call(**{name: given.pop(name) for name in shared})
        command(call=call, **given)

    wrapped.__doc__ = command.__doc__
    wrapped.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in order]
    )
    return wrapped
