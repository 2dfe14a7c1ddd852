"""doctor: a look at a source before a long run, or at this machine, as a list of findings with the gravest first."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stages.core.errors import ExitCode, TfcliError
from stages.core.interrupts import watch_signals
from stages.core.runtime import Runtime
from tfcli import options, render
from tfcli.commands.machine import check_machine

if TYPE_CHECKING:
    from stages.doctor.alphabet import Alphabet
    from stages.doctor.examine import Checkup
    from stages.doctor.findings import Finding
    from stages.doctor.rows import RowRules
    from stages.recipe import Recipe

_NAMELESS = "doctor"  # the recipe that stands for a bare path
_STYLES = {"stops": "bold red", "problem": "yellow", "remark": "cyan"}
_SourceArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[SOURCE]",
        help="A recipe, a folder of pictures, tars, .parquet, .jsonl or text. Without it: this machine.",
        show_default=False,
        autocompletion=options.recipe_names,
    ),
]


def doctor(
    context: typer.Context,
    source: _SourceArgument = None,
    settings: options.SetOption = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, help="Decode the pictures of this many documents, spread over the source.")
    ] = 500,
    work: options.WorkOption = None,
    workers: options.WorkersOption = Runtime.workers,
    json: options.JsonOption = False,
    quiet: options.QuietOption = False,
    _debug: options.DebugOption = False,
) -> None:
    """Check a source before a long run, or this machine: what is wrong, where, and what fixes it. Nothing is written.

    All texts are read, those of tokenize.text too, and a sample of the pictures is decoded. Exit code 0 if a run would
    go through, 3 if not.

    Without a source: versions, hardware and limits of this machine and what would hinder a run, as text to paste into a
    report, without names of users and folders. Exit code 0, or 5 if nothing would run here.

    \b
    Examples: tfcli doctor
              tfcli doctor my/pictures
              tfcli doctor recipes/folder.toml --set source.path=my/pictures --set images.size=128
              tfcli doctor shards/ --limit 5000 --json
    """
    typed = {name for name in context.params if options.is_typed(context, name)}
    if source is None:
        _refuse(typed & {"settings", "limit", "workers"}, "needs a SOURCE", "name one: tfcli doctor my/pictures")
        check_machine(work or Path("work"), json=json, quiet=quiet)
    else:
        _refuse(typed & {"work"}, "and a SOURCE exclude each other", "leave one of them out")
        _check_data(source, tuple(settings or ()), limit, workers, json=json, quiet=quiet)


def _refuse(typed: set[str], why: str, fix: str) -> None:
    for name in sorted(typed):
        option = "--set" if name == "settings" else f"--{name}"
        raise TfcliError(f"{option} {why}", fix=fix, code=ExitCode.USAGE)


def _check_data(source: str, settings: tuple[str, ...], limit: int, workers: int, *, json: bool, quiet: bool) -> None:
    """The look at a source. Raises TfcliError (INPUT) where a run would stop."""
    from stages.doctor.alphabet import Alphabet
    from stages.doctor.examine import Limits, check_source
    from stages.doctor.findings import by_gravity
    from stages.doctor.rows import Rows

    recipe, why = _recipe(source, settings)
    limits = Limits(recipe.encode.max_bad, recipe.encode.bad_window, recipe.encode.shard_rows)
    alphabet = Alphabet()
    rules = _row_rules(recipe)
    rows = Rows(rules) if rules else None
    is_corpus = recipe.name == _NAMELESS and recipe.source.kind == "text"
    with watch_signals() as interrupts, render.Reporter(quiet=quiet or json) as report:
        runtime = Runtime(report=report, interrupts=interrupts, workers=workers)
        look = partial(
            check_source,
            images=recipe.images,
            limits=limits,
            limit=limit,
            runtime=runtime,
            alphabet=alphabet,
            rows=rows,
        )
        checkup = look(recipe.source, latent_row_bytes=_latent_row_bytes(recipe), corpus=is_corpus)
        corpora = {corpus.path: look(corpus, latent_row_bytes=None, corpus=True) for corpus in recipe.tokenize.text}
    checkup = _with_tokenizer(checkup, alphabet, recipe)
    if rows is not None and checkup.usable:
        checkup = replace(checkup, findings=by_gravity([*rows.findings(), *checkup.findings]))
    if json:
        found = _json(checkup) | {"corpora": [{"path": path} | _json(one) for path, one in corpora.items()]}
        render.show_json({"path": source, "kind": recipe.source.kind, "why": why, "size": recipe.images.size} | found)
    else:
        _show(source, {"reader": f"{recipe.source.kind} ({why})"}, recipe, checkup)
        for path, one in corpora.items():
            _show(path, {"reader": "text of tokenize.text"}, recipe, one)
    for path, one in {source: checkup, **corpora}.items():
        if not one.usable:
            worst = one.findings[0]
            raise TfcliError(f"a run from {path} would stop: {worst.what}", fix=worst.fix, code=ExitCode.INPUT)


def _with_tokenizer(checkup: Checkup, alphabet: Alphabet, recipe: Recipe) -> Checkup:
    """The checkup with what training a tokenizer would stop at, where the recipe trains one on the texts that were read."""
    tokenize = recipe.tokenize
    if tokenize.tokenizer.kind != "train" or tokenize.captions or not checkup.usable:
        return checkup
    finding = alphabet.finding(tokenize.tokenizer.vocab_size)
    return checkup if finding is None else replace(checkup, findings=(finding, *checkup.findings))


def _row_rules(recipe: Recipe) -> RowRules | None:
    """What packing asks of a document; None for text alone, and where a finished autoencoder decides the size of a picture."""
    from stages.doctor.rows import RowRules
    from stages.pack_sequences.row_length import CHOICES

    pack = recipe.pack
    if recipe.vae.kind != "train" or (recipe.name == _NAMELESS and recipe.source.kind == "text"):
        return None
    unit = recipe.vae.downsampling * pack.patch_side
    patches = min((height // unit) * (width // unit) for height, width in recipe.images.shapes())
    marks = 3 if pack.size_tokens else 2
    weights = {"weights": pack.weights, "late_weights": pack.late_weights}
    # "auto" takes at most the largest of its choices: what is longer is too long for certain
    length = CHOICES[-1] if pack.row_length == "auto" else pack.row_length
    return RowRules(length, patches + marks, pack.too_long_documents == "truncate", weights)


def _json(checkup: Checkup) -> dict[str, Any]:
    return asdict(checkup) | {"usable": checkup.usable}


def _recipe(source: str, settings: tuple[str, ...]) -> tuple[Recipe, str]:
    """The recipe to check by, and why this reader. A path is read with the default settings."""
    from stages.doctor.guess import guess_source
    from stages.recipe import load_recipe, make_recipe, named_recipes

    path = os.path.expanduser(source)
    if path.endswith(".toml") or (not os.path.exists(path) and source in named_recipes()):
        recipe = load_recipe(source, settings)
        return recipe, f"the recipe says kind = {recipe.source.kind}"
    guess = guess_source(source)
    tree: dict[str, Any] = {"name": _NAMELESS, "source": guess.source.model_dump(include={"kind", "path"})}
    return make_recipe(tree, settings, Path(source)), guess.why


def _latent_row_bytes(recipe: Recipe) -> int | None:
    """Bytes of a picture's latents by the recipe; None where a finished autoencoder decides it."""
    if recipe.vae.kind != "train":
        return None
    side = recipe.images.size // recipe.vae.downsampling
    bytes_each = 2 if recipe.encode.dtype == "float16" else 4
    return 2 * recipe.vae.latent_channels * side**2 * bytes_each * (2 if recipe.encode.mirror else 1)


def _show(source: str, reader: dict[str, str], recipe: Recipe, checkup: Checkup) -> None:
    properties = {
        **reader,
        "reads": checkup.describe,
        "documents": f"{checkup.documents:,}" + (f", {checkup.omitted:,} left out" if checkup.omitted else ""),
        "pictures": f"{checkup.pictures:,}; {checkup.looked_at:,} looked at, {checkup.good:,} of them usable",
        "formats": _counts(list(checkup.formats.items())),
        "shorter side": _counts(checkup.sizes),
        "text": f"median {checkup.median_text:,} characters, longest {checkup.longest_text:,}",
    }
    if not checkup.pictures and not checkup.looked_at:
        properties = {
            name: value for name, value in properties.items() if name not in ("pictures", "formats", "shorter side")
        }
    if checkup.latent_bytes:
        size = f"{recipe.images.size} px, {recipe.images.fit}"
        properties["latents"] = f"about {render.size_text(checkup.latent_bytes)} on disk ({size})"
    render.show(source, render.pairs(properties), "")
    for finding in checkup.findings:
        _show_finding(finding)
    if not checkup.findings:
        render.show("nothing to remark")
    else:
        counts = {gravity: sum(one.gravity == gravity for one in checkup.findings) for gravity in _STYLES}
        counted = ", ".join(_count_text(gravity, number) for gravity, number in counts.items() if number)
        render.show("", f"{'a run would go through' if checkup.usable else 'a run would stop'}: {counted}")


def _show_finding(finding: Finding) -> None:
    style = _STYLES[finding.gravity]
    render.show(render.styled((f"{finding.gravity:8} ", style), (finding.what, "bold" if style != "cyan" else "")))
    for example in finding.examples:
        render.show(render.styled((f"{'':9}{example}", "dim")))
    more = finding.number - len(finding.examples)
    if finding.examples and more > 0 and finding.code not in ("CAPTION_REPEATED", "DUPLICATE"):
        render.show(render.styled((f"{'':9}and {more:,} more", "dim")))
    if finding.fix:
        render.show(f"{'':9}fix: {finding.fix}")


def _count_text(gravity: str, number: int) -> str:
    one, many = ("reason to stop", "reasons to stop") if gravity == "stops" else (gravity, f"{gravity}s")
    return f"{number} {one if number == 1 else many}"


def _counts(rows: list[tuple[str, int]]) -> str:
    return ", ".join(f"{name}: {number:,}" for name, number in rows) or "none"
