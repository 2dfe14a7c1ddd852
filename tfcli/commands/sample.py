"""tfcli sample: prompts of text and pictures from arguments, files and stdin; draws and writes with a finished checkpoint."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note, Warn
from stages.core.interrupts import watch_signals
from stages.core.runtime import Runtime
from tfcli import options, render
from tfcli.commands import sample_options as given
from tfcli.toml import toml_value

if TYPE_CHECKING:
    from stages.pipeline import Workspace
    from stages.sample_model.config import MixedPrompt, PromptOptions

HELP = """Draw pictures from texts, write texts for pictures, and go on with any mixture of both.

Settings are those of the recipe that the checkpoint was trained with, or of -r.
Samples of prompts go into a folder of their own next to the checkpoint, with a page.

\b
Draw:      tfcli sample work/shapes "a red circle on the left and a blue square on the right"
Describe:  tfcli sample work/shapes --image photo.jpg
Ask:       tfcli sample work/shapes "how many?" --image photo.jpg --write
Edit:      tfcli sample work/shapes "make it blue" --image photo.jpg --draw
Places:    tfcli sample work/shapes "<image> or <image>?" -i a.png -i b.png
Inpaint:   tfcli sample work/shapes "a cat" --begin a.png --mask hole.png
Vary:      tfcli sample work/shapes --begin photo.jpg --strength 0.6 --count 4
Go on:     tfcli sample work/shapes "first a red circle: " --decide
Several:   tfcli sample work/shapes "a red circle" "a blue square" --count 4
Lines:     tfcli sample work/shapes --prompts lines.txt
Documents: tfcli sample work/shapes --prompts documents.jsonl
Piped:     echo "a red circle" | tfcli sample work/shapes --prompts -
A recipe:  tfcli sample -r shapes                  (what it lists itself)
           tfcli sample -r shapes "a red circle"

\b
documents.jsonl holds one document per line; its paths are relative to it and
stay inside its folder. draw: true, false (text only) or "model" (it decides):
{"parts": [{"image": "a.png"}, {"text": "turn it blue"}], "draw": true}
{"parts": [{"text": "a cat"}], "size": "64x48", "negative": "a dog"}
{"parts": [], "begin": {"image": "a.png", "mask": "b.png", "strength": 0.8}}
"""


@dataclass(frozen=True)
class Settings:
    """The options that stand for keys of the recipe, as typed; None: not given."""

    count: int | None
    seed: int | None
    guidance: float | None
    sampler: str | None
    steps: int | None
    temperature: float | None
    top_p: float | None
    gif: bool | None

    def as_overrides(self, call: options.Call) -> tuple[str, ...]:
        """As --set has them. Raises TfcliError (USAGE) where --set gives the same key."""
        from stages.recipe_errors import override_key

        named = set(map(override_key, call.settings))
        found = []
        for field in fields(self):
            value, key = getattr(self, field.name), KEYS[field.name]
            if value is None:
                continue
            if key in named:
                what = f"--{field.name.replace('_', '-')} and --set {key} exclude each other"
                raise TfcliError(what, fix="leave one of them out", code=ExitCode.USAGE)
            found.append(f"{key}={toml_value(value)}")
        return tuple(found)


# the sampler's kind before its steps: another kind begins with its own defaults
KEYS = {
    "count": "sample.count",
    "seed": "seed",
    "guidance": "sample.generation.guidance",
    "sampler": "sample.generation.sampler.kind",
    "steps": "sample.generation.sampler.steps",
    "temperature": "sample.generation.temperature",
    "top_p": "sample.generation.top_p",
    "gif": "sample.gif",
}


def sample(
    words: given.Words = None,
    prompt: given.Prompt = None,
    image: given.Image = None,
    prompts: given.File = None,
    draw: given.Draw = False,
    write: given.Write = False,
    decide: given.Decide = False,
    size: given.Size = None,
    negative: given.Negative = None,
    begin: given.Begin = None,
    mask: given.Mask = None,
    strength: given.Strength = None,
    count: given.Count = None,
    seed: given.Seed = None,
    guidance: given.Guidance = None,
    sampler: given.Sampler = None,
    steps: given.Steps = None,
    temperature: given.Temperature = None,
    top_p: given.TopP = None,
    *,
    call: options.Call,
    gif: given.Gif = False,
    open_page: given.Open = False,
) -> None:
    texts = list(words or [])
    folder = texts.pop(0) if call.recipe is None and texts else None
    if call.recipe is None and folder is None:
        fix = "tfcli sample work/shapes/checkpoint ..., or tfcli sample -r shapes ..."
        raise TfcliError("neither a checkpoint nor a recipe is given", fix=fix, code=ExitCode.USAGE)
    values = {"draw": _next(draw, write, decide), "size": size, "negative": negative}
    edit = {"image": begin, "mask": mask, "strength": strength}
    asked = _prompts([*texts, *(prompt or [])], image or [], prompts, _prompt_options(values, edit))
    settings = Settings(count, seed, guidance, sampler, steps, temperature, top_p, gif or None).as_overrides(call)
    try:
        workspace = _workspace(
            folder, call, (*_prompt_settings(call, asked), *settings), own_folder=bool(asked or folder)
        )
    except TfcliError as error:
        raise _as_typed(error, settings) from error
    _make(workspace, call, open_page)


def _as_typed(error: TfcliError, settings: tuple[str, ...]) -> TfcliError:
    """An error about one of these settings, for which an option stands, in the words of the option."""
    for name, key in KEYS.items():
        prefix = f"--set {key}="
        if error.what.startswith(prefix) and any(setting.startswith(f"{key}=") for setting in settings):
            what = f"--{name.replace('_', '-')} {error.what.removeprefix(prefix)}"
            return TfcliError(what, why=error.why, fix=error.fix, code=error.code)
    return error


def _next(draw: bool, write: bool, decide: bool) -> bool | Literal["model"] | None:
    flags = [name for name, flag in (("--draw", draw), ("--write", write), ("--decide", decide)) if flag]
    if len(flags) > 1:
        what = f"{' and '.join(flags)} exclude each other"
        raise TfcliError(what, fix="leave one of them out", code=ExitCode.USAGE)
    return True if draw else False if write else "model" if decide else None


def _prompt_options(values: dict[str, Any], edit: dict[str, Any]) -> PromptOptions:
    """What the options ask for in addition to texts and pictures. Raises TfcliError (USAGE) that names the option."""
    # here, not at the top: they need pydantic and numpy, '--help' does not
    from pydantic import ValidationError

    from stages.sample_model.config import PromptOptions
    from stages.sample_model.prompts import check_prompt_options, picture_file

    chosen = {name: value for name, value in values.items() if value is not None}
    edit = {name: value for name, value in edit.items() if value is not None}
    if edit and "image" not in edit:
        what = f"--{' and --'.join(edit)} without --begin"
        raise TfcliError(what, fix="give the picture that drawing begins from: --begin FILE", code=ExitCode.USAGE)
    if edit and "mask" not in edit and edit.get("strength", 1) == 1:
        why = "drawing would go through all of the noise, after which nothing of the picture is left"
        fix = "add --strength 0.6 for a variation, or --mask FILE, white where it may change"
        raise TfcliError("--begin with neither --strength below 1 nor --mask", why=why, fix=fix, code=ExitCode.USAGE)
    for name, option in (("image", "--begin"), ("mask", "--mask")):
        if name in edit:
            edit[name] = str(picture_file(edit[name], option))
    try:
        return check_prompt_options(PromptOptions.model_validate({**chosen, **({"begin": edit} if edit else {})}))
    except ValidationError as error:
        first = error.errors()[0]
        name = f"--{first['loc'][-1]}: " if first["loc"] else ""
        what = f"{name}{first['msg'].removeprefix('Value error, ')}"
        if first["type"] == "string_pattern_mismatch":
            what = f"--size {values['size']}: not of the form WIDTHxHEIGHT, such as 48x48"
        raise TfcliError(what, fix="see 'tfcli sample --help'", code=ExitCode.USAGE) from error


def _prompts(
    texts: list[str], images: list[str], file: str | None, prompt_options: PromptOptions
) -> list[str | MixedPrompt]:
    """All prompts of the command line, then those of the file."""
    from stages.sample_model.prompts import MAX_FILE_BYTES, NONE, parse_prompts, prompt_of, read_prompts

    if images and not texts and file:
        why = "a file names its pictures itself"
        raise TfcliError("--image and --prompts without a text", why=why, fix="give a text", code=ExitCode.USAGE)
    alone = [""] if (images or prompt_options.begin) and not file else []
    if prompt_options != NONE and not (texts or alone or file):
        given_ones = ", ".join(f"--{name}" for name in prompt_options.model_dump(exclude_defaults=True))
        what = "--draw, --write and --decide" if prompt_options.draw is not None else given_ones
        raise TfcliError(f"{what} need a prompt", fix="give a text or --image", code=ExitCode.USAGE)
    asked = [prompt_of(text, images, prompt_options) for text in texts or alone]
    if file == "-":
        asked += parse_prompts(sys.stdin.buffer.read(MAX_FILE_BYTES + 1), Path("stdin"), prompt_options=prompt_options)
    elif file is not None:
        asked += read_prompts(Path(file), prompt_options)
    return asked


def _prompt_settings(call: options.Call, asked: list[str | MixedPrompt]) -> tuple[str, ...]:
    """The recipe settings behind prompts: these, and nothing else unless --set asks for it."""
    from stages.recipe_errors import override_key

    if not asked:
        return ()
    named = set(map(override_key, call.settings))
    if "sample.prompts" in named:
        what = "prompts and --set sample.prompts exclude each other"
        raise TfcliError(what, fix="leave one of them out", code=ExitCode.USAGE)
    plain = [one if isinstance(one, str) else one.model_dump(exclude_defaults=True) for one in asked]
    others = [f"sample.{key}" for key in ("heldout_prompts", "captions", "continued", "free")]
    return (f"sample.prompts={toml_value(plain)}", *(f"{key}=0" for key in others if key not in named))


def _workspace(folder: str | None, call: options.Call, settings: tuple[str, ...], *, own_folder: bool) -> Workspace:
    """own_folder: samples go next to the recipe's own, into a folder named by how they are made."""
    from stages.pipeline import BY_NAME, Workspace
    from tfcli.commands.session import open_checkpoint, open_workspace

    workspace = open_workspace(call, settings) if folder is None else open_checkpoint(folder, call, settings)
    if not own_folder:
        return workspace
    state = workspace.status(BY_NAME["sample"]).state
    if state != "waits" and (state != "fresh" or call.force):  # fresh: just these are the recipe's own
        name = f"samples-{workspace.stamp(BY_NAME['sample']).fingerprint[:8]}"
        workspace = Workspace(workspace.recipe, workspace.work, samples=name, checkpoint=workspace.checkpoint)
    return workspace


def _make(workspace: Workspace, call: options.Call, open_page: bool) -> None:
    from stages.artifacts.samples import PAGE, Samples
    from stages.pipeline import BY_NAME
    from tfcli.commands.session import make_part, show_status, status_json

    stage = BY_NAME["sample"]
    if call.dry_run:
        status = workspace.status(stage)
        if call.json:
            render.show_json({**status_json(status), "would_run": call.force or status.state != "fresh"})
        else:
            show_status(status, call)
        return
    with watch_signals() as interrupts:
        outcome = make_part(workspace, stage, call, interrupts, Runtime())
    assert outcome is not None
    page = outcome.before.target / PAGE
    if call.json:
        records = [record.model_dump() for record in Samples.open(outcome.before.target).records()]
        render.show_json({**outcome.as_json(), "index": str(page), "records": records})
    else:
        with render.Reporter(quiet=call.quiet) as report:
            report(Note(f"page: {page}"))
        render.show_path(outcome.before.target)
        if call.verbose:
            render.show(render.pairs(outcome.manifest.stats))
    if open_page:
        _open(page)


def _open(page: Path) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        with render.Reporter() as report:
            report(Warn(f"no browser opened {page}: open that file yourself"))
