"""The options of `tfcli sample` alone. Settings stand for keys of the recipe: see `Settings` in sample.py."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tfcli.options import recipe_names

_PROMPTS, _OUTPUT = "Prompts", "Output"
_SETTINGS = "Settings (others: --set sample.generation.KEY=VALUE)"


def _option(panel: str, *names: str, help: str, metavar: str | None = None, completion: Any = None) -> Any:
    return typer.Option(
        *names, metavar=metavar, help=help, show_default=False, rich_help_panel=panel, autocompletion=completion
    )


Recipe = Annotated[
    str | None,
    _option(
        "Recipe",
        "--recipe",
        "-r",
        metavar="RECIPE",
        help="Take checkpoint and settings of this recipe, in place of CHECKPOINT.",
        completion=recipe_names,
    ),
]
Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CHECKPOINT] [PROMPT]...",
        help="The folder of a checkpoint or of the work around it (not with -r), then texts.",
        show_default=False,
    ),
]
Prompt = Annotated[
    list[str] | None, _option(_PROMPTS, "--prompt", "-p", metavar="TEXT", help="One more text. May be repeated.")
]
Image = Annotated[
    list[str] | None,
    _option(
        _PROMPTS,
        "--image",
        "-i",
        metavar="FILE",
        help="A picture before each text, or where it says <image>. May be repeated; in order.",
    ),
]
File = Annotated[
    str | None,
    _option(
        _PROMPTS,
        "--prompts",
        metavar="FILE",
        help="One prompt per line, or documents (.jsonl). -: standard input, documents if it begins with {.",
    ),
]
Draw = Annotated[bool, _option(_PROMPTS, "--draw", help="Draw a picture now, and end. Default for texts.")]
Write = Annotated[bool, _option(_PROMPTS, "--write", help="Write text only. Default for pictures alone.")]
Decide = Annotated[
    bool, _option(_PROMPTS, "--decide", help="Let the model decide, text or pictures. Default for mixtures.")
]
Size = Annotated[
    str | None, _option(_PROMPTS, "--size", metavar="WxH", help="Width and height of what is drawn, in pixels.")
]
Negative = Annotated[
    str | None, _option(_PROMPTS, "--negative", metavar="TEXT", help="A text to lead away from; needs guidance.")
]
Begin = Annotated[
    str | None,
    _option(
        _PROMPTS, "--begin", metavar="FILE", help="A picture that drawing begins from, instead of from noise alone."
    ),
]
Mask = Annotated[
    str | None,
    _option(
        _PROMPTS,
        "--mask",
        metavar="FILE",
        help="Where the picture of --begin may change: white, or a hole erased from that picture or from black.",
    ),
]
Strength = Annotated[
    float | None,
    _option(_PROMPTS, "--strength", metavar="S", help="How much of --begin may change, above 0 and up to 1 (all)."),
]
Count = Annotated[int | None, _option(_PROMPTS, "--count", metavar="N", help="Samples of each prompt.")]
Seed = Annotated[int | None, _option(_SETTINGS, "--seed", metavar="N", help="Seed of all random draws.")]
Guidance = Annotated[
    float | None, _option(_SETTINGS, "--guidance", metavar="W", help="Strength of guidance by the text; 1: none.")
]
Sampler = Annotated[
    str | None, _option(_SETTINGS, "--sampler", metavar="KIND", help="ddpm, ddim, euler, heun, dpm++ or unipc.")
]
Steps = Annotated[int | None, _option(_SETTINGS, "--steps", metavar="N", help="Steps of denoising.")]
Temperature = Annotated[
    float | None, _option(_SETTINGS, "--temperature", metavar="T", help="Temperature of text; 0: greedy.")
]
TopP = Annotated[
    float | None,
    _option(
        _SETTINGS,
        "--top-p",
        metavar="P",
        help="Choose each piece of text from the likeliest that add up to this probability.",
    ),
]
Gif = Annotated[bool, _option(_OUTPUT, "--gif", help="Also an animation of the denoising of each picture.")]
Open = Annotated[bool, _option(_OUTPUT, "--open", help="Open the page in the browser.")]
