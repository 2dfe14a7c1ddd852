"""recipe explain, schema: what the keys of recipes are."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from stages.core.errors import ExitCode, TfcliError
from stages.core.files import write_atomic
from stages.core.reading import read_bounded
from tfcli import options, render


def explain(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY", help="A key or a section, such as train.ema_decay or train. Default: list the sections."
        ),
    ] = None,
    json: options.JsonOption = False,
    _debug: options.DebugOption = False,
) -> None:
    """Explain a key of recipes: its type, its default and what it does. A section explains all of its keys.

    \b
    Examples: tfcli recipe explain                    the sections
              tfcli recipe explain train.ema_decay    one key
              tfcli recipe explain diffusion          a section
              tfcli recipe explain source.path        for each kind of source
    """
    from stages.recipe_keys import KeyMatch, all_sections, find, near
    from tfcli.explained import found_text, sections_text

    if key is None:
        sections = all_sections()
        if json:
            render.show_json(asdict(KeyMatch((), tuple(sections))))
        else:
            render.show_text(sections_text(sections) + "\n")
        return
    found = find(key)
    if found is None:
        alike = near(key)
        fix = f"did you mean {' or '.join(alike)}?" if alike else "'tfcli recipe explain' lists the sections"
        raise TfcliError(f"no recipe key {key}", why="no section has it", fix=fix, code=ExitCode.USAGE)
    if json:
        render.show_json(asdict(found))
    else:
        render.show_text(found_text(found) + "\n")


def schema(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write it to this file.", show_default="print it"),
    ] = None,
    _debug: options.DebugOption = False,
) -> None:
    """Print the JSON schema of recipes, from which an editor completes, explains and checks keys.

    \b
    Example: tfcli recipe schema --output recipe.schema.json
    Editors with Taplo (in VS Code "Even Better TOML") use it where the
    first line of a recipe is:  #:schema ./recipe.schema.json
    """
    from stages.recipe_schema import recipe_schema
    from tfcli.commands.found import require_output_path

    made = recipe_schema()
    text = json_format.dumps(made, indent=1) + "\n"
    if output is None:
        render.show_text(text)
        return
    require_output_path(output, "--output")
    if output.exists() and not _is_like(made, output):
        why = "it is there already and is no schema of recipes"
        raise TfcliError(f"--output {output} is not replaced", why=why, fix="give another name", code=ExitCode.USAGE)
    write_atomic(output, text.encode())


def _is_like(made: dict[str, Any], path: Path) -> bool:
    """Whether a file is a schema that this command wrote, perhaps in an older version: one that may be replaced. Many JSON files
    have a "$schema"."""
    try:
        found = json_format.loads(read_bounded(path))
    except (ValueError, OSError, RecursionError, TfcliError):
        return False
    return isinstance(found, dict) and all(found.get(key) == made[key] for key in ("$schema", "title"))
