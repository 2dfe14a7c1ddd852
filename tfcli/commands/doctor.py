"""doctor: read a sample of a source before a long run, and say what is wrong with it and where."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.core.errors import ExitCode, TfcliError
from stages.core.interrupts import watch_signals
from tfcli import options, render

if TYPE_CHECKING:
    from stages.inspection.checkup import Checkup


def add_doctor(app: typer.Typer) -> None:
    """Mount the command."""
    app.command("doctor", rich_help_panel="Artifacts")(doctor)


def doctor(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A recipe, a folder, or a .tar, .parquet, .jsonl or .txt file.")
    ],
    limit: Annotated[int, typer.Option("--limit", min=1, help="Documents to look at, spread over the source.")] = 500,
    size: Annotated[
        int, typer.Option("--size", min=8, max=4096, help="images.size to check for (without a recipe).")
    ] = 64,
    json: options.JsonOption = False,
    _debug: options.DebugOption = False,
) -> None:
    """Look at a source before a long run: captions, copies, sizes, broken files. Exit code 3: nothing in it can be used.

    \b
    Examples: tfcli doctor recipes/emoji.toml
              tfcli doctor ~/pictures --size 256 --limit 2000
    """
    # here, not at the top: '--help' needs none of it
    from stages.coders.config import Images
    from stages.inspection.checkup import examine
    from stages.inspection.guess import guess_source
    from stages.recipe import load_recipe

    images: Any
    if source.endswith(".toml"):
        recipe = load_recipe(source, ())
        reader, images, why = recipe.source, recipe.images, f"{recipe.source.kind}: the recipe says so"
    else:
        (reader, why), images = guess_source(source), Images(size=size)
    with watch_signals() as interrupts:
        found = examine(reader, images, limit, lambda: interrupts.check("nothing was changed"))
    if json:
        render.show_json({"reader": why, **asdict(found), "usable": found.usable})
    else:
        _show(found, why, reader.describe())
    if not found.usable:
        worst = found.findings[0]
        raise TfcliError(worst.what, fix=worst.fix, code=ExitCode.INPUT)


def _show(found: Checkup, why: str, described: str) -> None:
    facts: dict[str, Any] = {
        "reader": why,
        "reads": described,
        "documents": f"{found.documents:,} with {found.pictures:,} pictures; {found.looked_at:,} looked at",
    }
    if found.kinds:
        kinds = sorted(found.kinds.items(), key=lambda item: -item[1])
        facts["pictures"] = ", ".join(f"{number:,} {kind}" for kind, number in kinds[:8])
    if found.sides:
        sides = sorted(found.sides)
        facts["shorter side"] = f"{sides[0]} to {sides[-1]} px, median {sides[len(sides) // 2]}"
    render.show(render.pairs(facts), "")
    for finding in found.findings:
        render.show(f"{finding.gravity}: {finding.count:,} x {finding.what}")
        for example in finding.examples:
            render.show(f"    {example}")
        render.show(f"    fix: {finding.fix}")
    grave = sum(finding.gravity != "note" for finding in found.findings)
    things = "thing" if grave == 1 else "things"
    if found.usable:
        render.show("", f"{grave} {things} to look at; the source can be used" if grave else "nothing to mend")
