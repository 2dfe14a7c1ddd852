"""tfcli run: all stages in order, skipping what is fresh and saying why the rest is not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.core.errors import ExitCode, TfcliError
from stages.core.interrupts import watch_signals
from tfcli import options, render

if TYPE_CHECKING:
    from stages.pipeline import Stage, Workspace
    from tfcli.commands.session import Outcome

_OTHER_SIDES = ("new_things_", "alike_")  # of the world of shapes: in scores.json

OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="STAGE", help="Run this stage only. May be repeated.", rich_help_panel="Action"),
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.", rich_help_panel="Action")
]


def run(only: OnlyOption = None, until: UntilOption = None, *, call: options.Call) -> None:
    """Run every stage of a recipe in order: pictures and text in, trained model, samples and scores out.

    A stage whose settings and inputs have not changed is skipped; a stopped run goes on where it was.

    \b
    Examples: tfcli run smoke
              tfcli run smoke --set train.steps=500 --until train
    """
    from tfcli.commands.session import make, may_replace, open_workspace

    stages = _chosen(only or [], until)
    workspace = open_workspace(call)
    if any(stage.name == "train" for stage in stages):
        workspace.start()  # a checkpoint that is not there should not be missed after hours of encoding
    if call.dry_run:
        _show_plan(workspace, stages, call)
        return
    began = time.monotonic()
    replace = may_replace(workspace, stages, call)  # before the first stage: not after hours of encoding
    with watch_signals() as interrupts:
        # one after the other: a stage that gives the same digest again leaves the later ones fresh
        outcomes = [make(workspace, stage, call, interrupts, replace=replace) for stage in stages]
    _show_result(workspace, outcomes, time.monotonic() - began, call)


def _chosen(only: list[str], until: str | None) -> list[Stage]:
    from stages.pipeline import BY_NAME, STAGES

    if only and until:
        raise TfcliError("--only and --until exclude each other", fix="leave one of them out", code=ExitCode.USAGE)
    for name in [*only, *([until] if until else [])]:
        if name not in BY_NAME:
            raise TfcliError(f"no stage {name}", fix=f"one of {', '.join(BY_NAME)}", code=ExitCode.USAGE)
    if until:
        return list(STAGES[: STAGES.index(BY_NAME[until]) + 1])
    return [stage for stage in STAGES if not only or stage.name in only]


def _show_plan(workspace: Workspace, stages: list[Stage], call: options.Call) -> None:
    from tfcli.commands.session import refusal, status_json

    failure = refusal(workspace, stages, call)
    plan = list(workspace.plan(tuple(stage.name for stage in stages)))
    if call.json:
        lines = [{**status_json(status), "would_run": call.force or status.state != "fresh"} for status in plan]
        plain = {"recipe": workspace.recipe.name, "work": str(workspace.work), "stages": lines}
        render.show_json({**plain, "refused": failure.what if failure else None})
        if failure:
            raise failure
        return
    cells = [(status.stage.name, status.state, status.reason) for status in plan]
    render.show(render.rows(("stage", "state", "why"), cells))
    if failure:
        raise failure
    would = [status.stage.name for status in plan if call.force or status.state != "fresh"]
    render.show(f"would run: {', '.join(would) or 'nothing'}")


def _show_result(workspace: Workspace, outcomes: list[Outcome], seconds: float, call: options.Call) -> None:
    samples = workspace.target("samples")
    index = samples / "index.html"
    drawn = any(outcome.manifest.kind == "samples" for outcome in outcomes) and index.is_file()
    scores: dict[str, Any] = {}
    for outcome in outcomes:
        if outcome.manifest.kind == "scores":
            scores = outcome.manifest.stats
    if call.json:
        render.show_json(
            {
                "recipe": workspace.recipe.name,
                "work": str(workspace.work),
                "stages": [outcome.as_json() for outcome in outcomes],
                "seconds": round(seconds, 3),
                "scores": scores,
                "index": str(index) if drawn else None,
            }
        )
        return
    if call.quiet:
        for outcome in outcomes:
            render.show_path(outcome.before.target)
        return
    cells = [
        (
            outcome.before.stage.name,
            outcome.summary,
            render.short(outcome.manifest.digest),
            str(outcome.before.target)
            if call.verbose
            else ""
            if outcome.before.state == "fresh"
            else outcome.before.reason,
        )
        for outcome in outcomes
    ]
    render.show(render.rows(("stage", "state", "digest", "where" if call.verbose else "why"), cells))
    if scores:
        from stages.artifacts.scores import SCORES

        where = workspace.target("scores") / SCORES
        render.show("", f"scores (all of them: {where}):", render.pairs(headlines(scores)))
    render.show("", f"total: {render.seconds_text(seconds)}")
    if drawn:
        render.show(f"samples: {index}")


def headlines(scores: dict[str, Any]) -> dict[str, Any]:
    """The scores of the first side, each with the number of documents behind it, where there is one: "0.86 (116)"."""
    shown = {}
    for name, value in scores.items():
        if name.endswith("_count") or name.startswith(_OTHER_SIDES):
            continue
        count = scores.get(f"{name}_count")
        shown[name] = value if count is None else f"{value:g} ({count})"
    return shown
