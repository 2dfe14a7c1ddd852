"""Writes docs/recipe.md, the reference of all recipe keys: python -m tfcli.recipe_page docs/recipe.md (`make recipe-docs`).

Everything on the page is read off the sections of recipes and off the recipes of the paper's five sizes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from stages.core.files import write_atomic
from stages.model.config import ModelConfig
from stages.recipe import Recipe, load_recipe
from stages.recipe_keys import Key, KeySection, all_sections
from tfcli.explained import default_text

SIZES = ("0.16b", "0.37b", "0.76b", "1.4b", "7b")  # recipes paper-SIZE and paper-SIZE-unet

_TOP = """# Recipe reference

<!-- Made by `make recipe-docs`. Change the text below each field in the class of its section (docs/changing.md). -->

A recipe is one TOML file that holds everything that a run needs. Only `source` has no default.

- `extends = "other.toml"` starts from another recipe; keys that are set here replace its keys. A section whose `kind` changes is
  replaced whole. Only one level: a recipe that extends another one (such as `smoke.toml`) cannot be extended; copy it.
- `--set KEY=VALUE` on the command line changes one key, such as `--set train.steps=100`; the value is written as in TOML.
- A section of several kinds is of its default kind where `kind` is not set. Keys that its kind does not have are refused.
- Paths are relative to the folder in which `tfcli` is started.

```bash
.venv/bin/tfcli recipe explain train.ema_decay     # one key of this page
.venv/bin/tfcli recipe explain diffusion           # a section
.venv/bin/tfcli recipe show shapes --explain       # a whole recipe, with what each key does and where its value is from
.venv/bin/tfcli recipe check shapes                # is everything in it right?
```

## In an editor

```bash
.venv/bin/tfcli recipe schema --output recipe.schema.json
```

writes a JSON schema (draft 7). Editors that use [Taplo](https://taplo.tamasfe.dev) (in VS Code the extension "Even Better TOML")
then complete keys, show what they do and mark what is wrong. Name the schema in the first line of a recipe, relative to it:

```toml
#:schema ./recipe.schema.json
extends = "shapes.toml"
```

`taplo check my.toml` does the same on the command line. The schema knows each key alone; `tfcli recipe check` also knows which
values go together.
"""

_SIZES = """## The paper's five sizes

The models of table 2 (Zhou et al. 2024), by the recipe that gives each. The columns are the keys `model.layers`, `model.width`,
`model.heads` and `model.ffn_width`. Weights are counted with a vocabulary of {vocabulary} ids: with the linear codec, and with
the U-Net codec (recipe `paper-SIZE-unet`). The other settings are those of `paper-0.16b`, which the others extend; only
`train.micro_rows` and `train.sharding` differ too, so that a step fits into the memory of the devices.

| recipe | layers | width | heads | width of a head | ffn_width | weights, linear codec | weights, U-Net codec |
|---|---|---|---|---|---|---|---|
"""


def recipe_page() -> str:
    """The whole page."""
    sections = all_sections()
    parts = [_TOP, _sizes(), _contents(sections), *(_section(section, sections) for section in sections)]
    return "\n".join(part for part in parts if part)


def _sizes() -> str:
    recipes = [(f"paper-{size}", load_recipe(f"paper-{size}"), load_recipe(f"paper-{size}-unet")) for size in SIZES]
    vocabulary = {_vocabulary(recipe) for _, *pair in recipes for recipe in pair}
    assert len(vocabulary) == 1, "the text above the table names one vocabulary"
    return _SIZES.format(vocabulary=f"{vocabulary.pop():,}") + "".join(_size(*row) for row in recipes)


def _size(name: str, linear: Recipe, unet: Recipe) -> str:
    model = linear.model
    shape = (model.layers, model.width, model.heads, model.width // model.heads, model.feed_forward_width)
    assert unet.model.model_copy(update={"codec": model.codec}) == model, f"{name}: the two recipes differ in more"
    counts = [f"{num_weights(recipe) / 1e9:.3f} B" for recipe in (linear, unet)]
    return f"| `{name}` | {' | '.join(map(str, (*shape, *counts)))} |\n"


def num_weights(recipe: Recipe) -> int:
    """Weights of a recipe's model. No memory is taken for them."""
    import torch

    from stages.model.transformer import ModelDims, Transfusion

    config: ModelConfig = recipe.model
    assert recipe.vae.kind == "train"
    dims = ModelDims(_vocabulary(recipe), recipe.vae.latent_channels, recipe.pack.patch_side)
    with torch.device("meta"):
        return sum(weight.numel() for weight in Transfusion(config, dims).parameters())


def _vocabulary(recipe: Recipe) -> int:
    tokenizer = recipe.tokenize.tokenizer
    assert tokenizer.kind == "train"
    assert tokenizer.vocab_size != "auto"
    return tokenizer.vocab_size


def _contents(sections: list[KeySection]) -> str:
    tops = [key for section in sections if not section.name for key in section.keys if key.is_section]
    lines = [f"- [`[{key.name}]`](#{slug(key.name)}): {_prose(key.description)}" for key in tops]
    return "\n".join(["## Sections", "", *lines, ""])


def _section(section: KeySection, sections: list[KeySection]) -> str:
    """A heading where it is the first of that name, with a table of the kinds, if any; then a table of its keys."""
    alike = [other for other in sections if other.name == section.name]
    lines: list[str] = []
    if alike[0] is section:
        level = "##" if "." not in section.name else "###"
        lines += [f"{level} {_named(section.name) or 'Keys at the top'}", ""]
        if all(other.kind for other in alike):
            lines += _kinds(section.name, alike, sections)
        else:
            lines += [_prose(section.about), ""]
    keys = [key for key in section.keys if not (section.kind and key.name.endswith(".kind"))]
    if section.same_as and not section.kind:
        lines += [f"The same keys as [`[{section.same_as}]`](#{slug(section.same_as)}).", ""]
    if keys:
        if section.kind:
            lines += [f"{'#' * (3 + ('.' in section.name))} {_title(section)}", ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|", *map(row, keys), ""]
    return "\n".join(lines)


def _kinds(name: str, alike: list[KeySection], sections: list[KeySection]) -> list[str]:
    """A table of the kinds of a section, the default marked."""
    found = [key for section in sections for key in section.keys if key.name == name]
    default = found[0].default.get("kind") if found and isinstance(found[0].default, dict) else None
    lines = [_prose(found[0].description), ""] if found else []
    lines += ["| `kind` | what it is |", "|---|---|"]
    for section in alike:
        mark = " (default)" if section.kind == default else ""
        where = (
            f" Keys: as of [`{section.same_as}`](#{slug(_title(section, section.same_as))})." if section.same_as else ""
        )
        lines.append(f'| `"{section.kind}"`{mark} | {_prose(section.about)}{where} |')
    return [*lines, ""]


def row(key: Key) -> str:
    """The line of a key in the table of its section."""
    name = f"[`{key.name}`](#{slug(_named(key.name))})" if key.is_section else f"`{key.name}`"
    default = default_text(key)
    shown = default if default in ("required", "not set", "") else _prose(f"`{default}`")
    return f"| {name} | {_prose(key.type)} | {shown} | {_prose(key.description)} |"


def _title(section: KeySection, name: str = "") -> str:
    return f'{_named(name or section.name)} of kind "{section.kind}"'


def _named(name: str) -> str:
    return f"[{name}]" if name else ""


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MkDocs make it."""
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")


def _prose(text: str) -> str:
    """Text in a table cell of Markdown: nothing in it is markup but code in backticks, where a bar still ends the cell. What is
    in quotes is code too: a page may set them as other characters than TOML has."""
    parts = text.split("`")
    parts[::2] = [re.sub(r'"[^"]*"', r"`\g<0>`", part) for part in parts[::2]]
    pieces = "`".join(parts).split("`")
    marks = [r"([|])" if number % 2 else r"([*<|^\[\]\\])" for number in range(len(pieces))]
    return "`".join(re.sub(mark, r"\\\1", piece) for mark, piece in zip(marks, pieces, strict=True))


def main() -> None:
    """Write the page to the path that the command names."""
    (path,) = map(Path, sys.argv[1:])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, recipe_page().encode())


if __name__ == "__main__":
    main()
