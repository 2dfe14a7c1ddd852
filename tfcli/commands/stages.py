"""vae, encode, tokenize, pack, train, sample, eval: make one artifact unless it is fresh."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from stages.core.errors import ExitCode, TfcliError
from stages.core.interrupts import watch_signals
from stages.core.runtime import Launch, Runtime, WorkPart
from tfcli import options, render
from tfcli.commands.sample import HELP as SAMPLE_HELP
from tfcli.commands.sample import sample
from tfcli.commands.sample_options import Recipe as SampleRecipe

if TYPE_CHECKING:
    from stages.pipeline import Stage, Workspace

# Help of the commands that take the shared options only; the paragraph behind the \b is printed as it is.
HELP = {
    "vae": """Train the picture autoencoder on the recipe's own pictures, or copy in a finished one.

    \b
    Example: tfcli vae -r smoke --set vae.steps=200""",
    "encode": """Turn every picture into latents with the autoencoder; the documents are carried along.

    \b
    Examples: tfcli encode -r smoke --workers 4
              tfcli encode -r smoke --shards 2/4     (and 1/4, 3/4, 4/4 elsewhere)
              tfcli encode -r smoke --retry-failed""",
    "tokenize": """Train or load the SentencePiece tokenizer and turn all text into ids.

    \b
    Example: tfcli tokenize -r smoke --set tokenize.tokenizer.vocab_size=512""",
    "pack": """Lay documents of text and picture patches out in rows of a fixed length; needs no torch.

    \b
    Example: tfcli pack -r smoke --set pack.row_length=512""",
    "train": """Train the transformer on both losses. A stopped training goes on where it was saved.

    \b
    Example: tfcli train -r smoke --device cuda --set train.steps=100""",
    "eval": """Measure the held-out losses, and draw and write held-out documents for the judge.

    \b
    Example: tfcli eval -r smoke --json""",
}


PANEL = "Stages, in their order"


def add_stages(app: typer.Typer) -> None:
    """Mount the commands in the order of the pipeline."""
    for name in ("vae", "encode", "tokenize", "pack", "train"):
        command = encode if name == "encode" else _command(name)
        _mount(app, name, HELP[name], command)
    command = options.with_call(sample, SampleRecipe, default=None)
    app.command("sample", help=SAMPLE_HELP, rich_help_panel=PANEL)(command)
    _mount(app, "eval", HELP["eval"], _command("eval"))


def _mount(app: typer.Typer, name: str, help_text: str, command: Callable[..., None]) -> None:
    app.command(name, help=help_text, rich_help_panel=PANEL)(options.with_call(command))


def _command(name: str) -> Callable[..., None]:
    def command(call: options.Call) -> None:
        run_stage(name, call)

    return command


def encode(
    call: options.Call,
    shards: options.ShardsOption = "1/1",
    engine: options.EngineOption = Runtime.engine,
    retry_failed: options.RetryFailedOption = False,
) -> None:
    part = _part(shards)
    if engine not in ("local", "ray"):
        raise TfcliError(f"no engine {engine}", fix="local or ray", code=ExitCode.USAGE)
    alone = {
        "--force": call.force and "each part would be restarted",
        "--engine ray": engine == "ray" and "Ray shares the work out itself",
        "--retry-failed": retry_failed and "each part would be restarted",
    }
    for name, why in alone.items():
        if why and not part.whole:
            what = f"--shards and {name} exclude each other"
            raise TfcliError(what, why=why, fix="leave one of them out", code=ExitCode.USAGE)
    run_stage("encode", call, wanted=Runtime(part=part, engine=engine, retry_failed=retry_failed))


def _part(text: str) -> WorkPart:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise TfcliError(
            f"--shards {text}", why="not I/N with 1 <= I <= N", fix="such as --shards 2/4", code=ExitCode.USAGE
        )
    return WorkPart(int(found[1]), int(found[2]))


def _show_dry_run(workspace: Workspace, stage: Stage, call: options.Call) -> None:
    """Whether the stage would run, and what it would take."""
    from tfcli.commands.plan import plan_json, plan_train, show_plan
    from tfcli.commands.session import plan_encode, refusal, show_status, status_json

    name = stage.name
    if failure := refusal(workspace, [stage], call):
        raise failure
    status = workspace.status(stage)
    runs = call.force or status.state != "fresh"
    plan = plan_encode(workspace, call) if name == "encode" and runs else None
    training = plan_train(workspace, call) if name == "train" and runs else None
    if call.json:
        figures = vars(plan) if plan else plan_json(training) if training else {}
        render.show_json({**status_json(status), "would_run": runs, **figures})
        return
    show_status(status, call)
    if plan:
        render.show(f"{plan.documents:,} documents, {plan.pictures:,} pictures, {plan.shards:,} shards")
    if plan and plan.bytes is not None:
        time = "" if plan.seconds is None else f", about {render.seconds_text(plan.seconds)} on this machine"
        render.show(f"{plan.bytes / 1e9:,.3g} GB of latents{time}")
    if training:
        show_plan(training)


def run_stage(name: str, call: options.Call, wanted: Runtime | None = None) -> None:
    """Make the artifact of one stage and print where it is; nothing is printed for a part that is not the last."""
    # here, not at the top: the recipe needs numpy and pillow, '--help' does not
    from stages.pipeline import BY_NAME
    from tfcli.commands.session import make_part, may_replace, open_workspace

    stage = BY_NAME[name]
    workspace = open_workspace(call)
    if call.dry_run:
        _show_dry_run(workspace, stage, call)
        return
    replace = may_replace(workspace, [stage], call)
    with watch_signals() as interrupts:
        outcome = make_part(workspace, stage, call, interrupts, wanted or Runtime(), replace=replace)
    if outcome is None:
        if call.json and not Launch.found().rank:
            render.show_json({"stage": name, "path": None, "state": "partial"})
        return
    if call.json:
        render.show_json(outcome.as_json())
        return
    render.show_path(outcome.before.target)
    if call.verbose:
        render.show(render.pairs(outcome.manifest.stats))
