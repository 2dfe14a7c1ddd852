"""plan: what a training would take, before anything is made. Also behind 'tfcli train --dry-run'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.core.errors import ExitCode, TfcliError
from stages.core.runtime import Runtime
from tfcli import options, render

if TYPE_CHECKING:
    from stages.estimate_training.plan import DataPlan, TrainingPlan
    from stages.pipeline import Workspace
    from stages.recipe import Recipe

_VOCABULARY = 2_000  # ids: a guess for "auto" where there are no tokens yet


def plan(
    context: typer.Context,
    recipe: options.RecipeArgument,
    settings: options.SetOption = None,
    work: options.WorkOption = None,
    gpus: Annotated[
        str,
        typer.Option(
            "--gpus", metavar="[N x]NAME", help="Such as H100 or 8xA100. Default: this machine.", show_default=False
        ),
    ] = "",
    mfu: Annotated[
        float | None,
        typer.Option(
            "--mfu",
            min=0.01,
            max=1,
            help="Share of the device's best speed that training reaches. Default: measured, else 0.4.",
            show_default=False,
        ),
    ] = None,
    device: options.DeviceOption = Runtime.device,
    json: options.JsonOption = False,
    _debug: options.DebugOption = False,
) -> None:
    """Say what training a recipe would take: weights, memory by kind, speed and days. Nothing is trained.

    Counted are the rows of the first step where the work folder has a fresh 'tfcli pack', else rows like the recipe's. On
    this machine's CPU memory and speed are measured: a process of its own trains for half a minute. Exit code 5 if it does
    not fit.

    \b
    Examples: tfcli plan paper-0.76b --gpus 8xH100
              tfcli plan shapes --set model.width=512
    """
    from stages.core.hardware import machine_of, this_machine
    from tfcli.commands.session import open_workspace

    typed = not options.from_environment(context, "work")
    call = options.Call(
        recipe, tuple(settings or ()), work, device, 0, json, False, False, True, False, work_typed=typed
    )
    workspace = open_workspace(call)
    precision = workspace.recipe.train.precision
    machine = machine_of(gpus, precision) if gpus else this_machine(device, precision)
    found = make_plan(workspace, machine, mfu)
    if json:
        render.show_json(plan_json(found))
    else:
        show_plan(found)
    if found.advice:
        what = f"this does not fit: {render.size_text(found.peak_bytes)} of {render.size_text(found.machine.memory)}"
        raise TfcliError(what, fix=found.advice, code=ExitCode.ENVIRONMENT)


def make_plan(workspace: Workspace, machine: Any, mfu: float | None = None) -> TrainingPlan:
    """By the sequences that are there, else by what the recipe says of its data."""
    from stages.estimate_training.plan import plan_training
    from stages.pipeline import BY_NAME

    recipe = workspace.recipe
    try:
        packed = workspace.status(BY_NAME["pack"])
        data = packed.target if packed.state == "fresh" else data_of(recipe, _vocabulary(workspace))
    except TfcliError as error:  # of an older tfcli, or damaged: not what a plan is about
        if error.code != ExitCode.ARTIFACT:
            raise
        data = data_of(recipe)
    return plan_training(recipe.model, recipe.diffusion, recipe.train, data, machine, mfu=mfu, seed=recipe.seed)


def _vocabulary(workspace: Workspace) -> int | None:
    """The size of the vocabulary of the tokens, None where they are not there or will be made again."""
    from stages.artifacts.tokens import Tokens
    from stages.pipeline import BY_NAME

    status = workspace.status(BY_NAME["tokenize"])
    return Tokens.open(status.target).content.vocab_size if status.state == "fresh" else None


def plan_train(workspace: Workspace, call: options.Call) -> TrainingPlan | None:
    """For 'tfcli train --dry-run': on the device of the call, and None while too little is known."""
    from stages.core.hardware import this_machine

    try:
        return make_plan(workspace, this_machine(call.device, workspace.recipe.train.precision))
    except TfcliError as error:
        if error.code != ExitCode.USAGE:
            raise
        return None


def data_of(recipe: Recipe, vocabulary: int | None = None) -> DataPlan:
    """Vocabulary, channels and grid as the recipe says them, and guesses for what the data will decide. vocabulary: that of the
    tokens, where they are there. Raises TfcliError (USAGE) where a finished part decides."""
    import numpy as np

    from stages.estimate_training.memory import pair_length
    from stages.estimate_training.plan import DataPlan
    from stages.model.transformer import ModelDims
    from stages.pack_sequences.row_length import row_length_for

    vae, tokenizer, pack = recipe.vae, recipe.tokenize.tokenizer, recipe.pack
    if vae.kind != "train" or tokenizer.kind != "train":
        part = "autoencoder" if vae.kind != "train" else "tokenizer"
        why = f"how large the model's ends are depends on a finished {part}"
        raise TfcliError("too little is known for a plan", why=why, fix="run 'tfcli pack' first", code=ExitCode.USAGE)
    side = recipe.images.size // vae.downsampling
    guessed: dict[str, int] = {}
    vocab_size, row_length = tokenizer.vocab_size, pack.row_length
    if vocab_size == "auto":
        vocab_size = vocabulary or _VOCABULARY
        if vocabulary is None:
            guessed["tokenize.tokenizer.vocab_size"] = vocab_size
    if row_length == "auto":
        row_length = row_length_for(np.array([pair_length(pack.patch_side, (side, side))])).length
        guessed["pack.row_length"] = row_length
    dims = ModelDims(vocab_size, vae.latent_channels, pack.patch_side)
    return DataPlan(dims, (side, side), row_length, guessed)


def show_plan(plan: TrainingPlan) -> None:
    """As people read it."""
    machine = plan.machine
    total = sum(plan.parameters.values())
    weights = ", ".join(f"{name} {_millions(number)}" for name, number in plan.parameters.items())
    memory = ", ".join(f"{name} {render.size_text(number)}" for name, number in plan.memory.items() if number)
    source = "the packed rows of its first step" if plan.from_data else "rows of captions with an image, and text"
    peak = f"{machine.peak / 1e12:,.3g} TFLOP/s {'measured' if machine.measured else 'by the data sheet'}"
    measured = ", as on trial" if plan.trial else ""
    idle = f"; {1 - plan.busy:.0%} of the devices' time they wait for rows" if plan.busy < 1 else ""
    rows = f"{plan.micro_rows:,} row" + "s" * (plan.micro_rows != 1)
    lines = {
        "weights": f"{_millions(total)} ({weights})",
        "a step": f"{plan.elements_per_step:,} elements in passes of {rows}; counted on {source}",
        "arithmetic": f"{plan.flops_per_element / 1e9:,.3g} GFLOP an element, forward and back",
        "memory": f"{render.size_text(plan.peak_bytes)} of {render.size_text(machine.memory)} ({memory})",
        "device": f"{machine.count} x {machine.name}, {peak}",
        "speed": f"{plan.speed:,.0f} elements/s if {plan.mfu:.0%} of that is reached{measured}{idle}",
        "time": f"{_time(plan.seconds)} for {plan.steps:,} steps",
    }
    render.show(render.pairs(lines))
    if plan.guessed:
        guessed = ", ".join(f"{key} {number:,}" for key, number in plan.guessed.items())
        render.show(f"guessed, as \"auto\" takes it from the data (known after 'tfcli pack'): {guessed}")
    if plan.trial:
        seen = f"{render.size_text(plan.trial.peak_bytes)} of memory"
        more = ", and more where longer trainings meet new shapes" if plan.trial.steps < plan.steps else ""
        render.show(f"measured over {plan.trial.steps} steps taken on trial: {seen}{more}")
    elif machine.name == "cpu":
        render.show("memory is that of tensors; on a CPU the allocator keeps more: 1.5 to 2.7 times as much was seen")


def plan_json(plan: TrainingPlan) -> dict[str, Any]:
    """All figures, in bytes, seconds and elements."""
    return {
        "machine": vars(plan.machine),
        "parameters": plan.parameters,
        "memory": plan.memory,
        "peak_bytes": plan.peak_bytes,
        "fits": not plan.advice,
        "advice": plan.advice,
        "flops_per_element": plan.flops_per_element,
        "elements_per_step": plan.elements_per_step,
        "micro_rows": plan.micro_rows,
        "mfu": plan.mfu,
        "elements_per_second": plan.speed,
        "seconds": plan.seconds,
        "from_data": plan.from_data,
        "guessed": plan.guessed,
        "trial": vars(plan.trial) if plan.trial else None,
    }


def _millions(number: int) -> str:
    return f"{number / 1e9:,.3f} B" if number >= 10**9 else f"{number / 1e6:,.2f} M"


def _time(seconds: float) -> str:
    return f"{seconds / 86_400:,.1f} days" if seconds > 2 * 86_400 else render.seconds_text(seconds)
