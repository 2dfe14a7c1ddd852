"""recipe list, show, copy, check, diff: what recipes there are and what they mean when all is resolved. `recipe_keys.py` has
explain and schema."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note
from stages.core.system import write_failure
from tfcli import options, render
from tfcli.commands.recipe_keys import explain, schema
from tfcli.toml import to_toml

if TYPE_CHECKING:
    from stages.recipe import Recipe

_HELP = """List, show, explain, copy, check and compare recipes.

\b
Examples: tfcli recipe list
          tfcli recipe show smoke --explain
          tfcli recipe explain train.ema_decay
          tfcli recipe copy folder mine.toml
          tfcli recipe check mine.toml
"""
app = typer.Typer(no_args_is_help=True, help=_HELP)


@app.command("list")
def list_recipes(json: options.JsonOption = False, _debug: options.DebugOption = False) -> None:
    """List the recipes that can be named, with what each is for.

    \b
    Example: tfcli recipe list
    """
    from stages.recipe import existing_recipes

    found = []
    for name, path in sorted(existing_recipes().items()):
        try:
            found.append({"name": name, "path": str(path), "description": _load(str(path)).description})
        except TfcliError as error:
            found.append({"name": name, "path": str(path), "error": error.what})
    if json:
        render.show_json({"recipes": found})
        return
    cells = [(item["name"], item.get("description") or item.get("error", "")) for item in found]
    render.show(render.rows(("recipe", "what it is"), cells))


@app.command("show")
def show_recipe(
    recipe: options.RecipeArgument,
    settings: options.SetOption = None,
    explained: Annotated[
        bool,
        typer.Option("--explain", help="Write above each key what it does, and after it where its value is from."),
    ] = False,
    json: options.JsonOption = False,
    _debug: options.DebugOption = False,
) -> None:
    """Print a recipe with every key resolved, as TOML that can be used as a recipe again.

    \b
    Examples: tfcli recipe show smoke > mine.toml
              tfcli recipe show smoke --explain --set train.steps=9
    """
    from stages.recipe import recipe_tree

    if explained:
        _show_explained(recipe, tuple(settings or ()), as_json=json)
        return
    tree = recipe_tree(_load(recipe, tuple(settings or ())))
    if json:
        render.show_json(tree)
    else:
        render.show_text(to_toml(tree))


app.command("explain")(explain)


@app.command("copy")
def copy_recipe(
    recipe: options.RecipeArgument,
    to: Annotated[
        str | None,
        typer.Argument(metavar="[TO]", help="A file or a folder. Default: NAME.toml here.", show_default=False),
    ] = None,
    json: options.JsonOption = False,
    _debug: options.DebugOption = False,
) -> None:
    """Copy a recipe with its comments, to change it. A file that is there is never replaced.

    \b
    Example: tfcli recipe copy folder mine.toml
    """
    from stages.recipe import find_recipe, recipe_bytes, require_toml

    origin = find_recipe(recipe)
    data = recipe_bytes(origin)
    require_toml(origin, data)
    target = _copy_target(origin, to)
    _write_new(target, data, recipe)
    if json:
        render.show_json({"from": str(origin), "path": str(target)})
        return
    if base := re.search(rb'^extends\s*=\s*"([^"]+)"', data, re.MULTILINE):
        name = base[1].decode("utf-8", "replace")
        with render.Reporter() as report:
            report(Note(f"it extends {name}: its other settings are those of that recipe (tfcli recipe show {target})"))
    render.show_path(target)


@app.command("check")
def check_recipe(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE|FOLDER]",
            help="Default: all that 'recipe list' finds.",
            show_default=False,
            autocompletion=options.recipe_names,
        ),
    ] = None,
    json: options.JsonOption = False,
    _debug: options.DebugOption = False,
) -> None:
    """Resolve a recipe, or all recipes of a folder, and say what is wrong before any stage runs.

    \b
    Example: tfcli recipe check recipes/
    """
    checked = {path: _problem(path) for path in _to_check(recipe)}
    bad = {path: error for path, error in checked.items() if error}
    if json:
        lines = [
            {
                "recipe": path,
                "ok": error is None,
                "error": error.what if error else None,
                "fix": error.fix if error else None,
            }
            for path, error in checked.items()
        ]
        render.show_json({"recipes": lines})
    else:
        render.show(
            render.rows(("recipe", "result"), [(path, _verdict(path, error)) for path, error in checked.items()])
        )
    if len(checked) == 1:
        for error in bad.values():
            raise error
    if bad:
        what = f"{len(bad)} of {len(checked)} recipes cannot be used"
        raise TfcliError(what, why=", ".join(bad), fix=f"tfcli recipe check {next(iter(bad))}", code=ExitCode.USAGE)


@app.command("diff")
def diff_recipes(
    first: options.RecipeArgument,
    second: options.OtherRecipeArgument,
    settings: options.SetOption = None,
    json: options.JsonOption = False,
    _debug: options.DebugOption = False,
) -> None:
    """Print the keys in which two resolved recipes differ. --set changes the second one.

    \b
    Examples: tfcli recipe diff smoke shapes
              tfcli recipe diff smoke smoke --set train.steps=9
    """
    from stages.recipe import recipe_tree

    old = render.flat(recipe_tree(_load(first)))
    new = render.flat(recipe_tree(_load(second, tuple(settings or ()))))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if json:
        render.show_json({"differences": {key: [old.get(key), new.get(key)] for key in keys}})
    elif keys:
        lines = [(key, _cell(old, key), _cell(new, key)) for key in keys]
        render.show(render.rows(("key", first, second), lines))
    else:
        render.show("no difference")


app.command("schema")(schema)


def _load(name: str, settings: tuple[str, ...] = ()) -> Recipe:
    from stages.recipe import load_recipe

    return load_recipe(name, settings)


def _show_explained(name: str, settings: tuple[str, ...], *, as_json: bool) -> None:
    from stages.recipe_origins import load_with_origins, recipe_values
    from tfcli.explained import commented_toml

    recipe, origins = load_with_origins(name, settings)
    if as_json:
        values = recipe_values(recipe)
        render.show_json({key: {"value": value, "from": origins[key], "about": about} for key, value, about in values})
    else:
        render.show_text(commented_toml(recipe, origins))


def _copy_target(origin: Path, to: str | None) -> Path:
    """The file that a copy goes to. Raises TfcliError (USAGE) where there can be none."""
    from tfcli.commands.found import require_output_path

    target = Path(os.path.expanduser(to or "."))
    if to is None or to.endswith("/") or target.is_dir():
        target = target / f"{origin.stem}.toml"
    require_output_path(target)
    return target


def _write_new(target: Path, data: bytes, recipe: str) -> None:
    """Write a file that is not there yet. Raises TfcliError: USAGE where it is, ENVIRONMENT where it cannot be written."""
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError as error:
        fix = f"give another name: tfcli recipe copy {recipe} OTHER.toml"
        raise TfcliError(f"{target} exists already", fix=fix, code=ExitCode.USAGE) from error
    except OSError as error:
        raise write_failure(target, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        target.unlink(missing_ok=True)  # half a recipe
        raise write_failure(target, error) from error


def _to_check(recipe: str | None) -> list[str]:
    from stages.recipe import existing_recipes

    if recipe is None:
        return [str(path) for _, path in sorted(existing_recipes().items())]
    if not Path(recipe).is_dir():
        return [recipe]
    files = [str(path) for path in sorted(Path(recipe).glob("*.toml"))]
    if not files:
        raise TfcliError(f"no recipes in {recipe}", why="no .toml file there", fix="give a recipe", code=ExitCode.USAGE)
    return files


def _problem(recipe: str) -> TfcliError | None:
    try:
        _load(recipe)
    except TfcliError as error:
        return error
    return None


def _verdict(path: str, error: TfcliError | None) -> str:
    return "ok" if error is None else f"{error.what.removeprefix(f'{path}: ')} ({error.fix})"


def _cell(values: dict[str, Any], key: str) -> str:
    return render.value_text(values[key]) if key in values else "-"
