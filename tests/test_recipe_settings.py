"""The recipes that people use have the settings that won on `shapes`, and derive from the data what can be derived."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from stages.diffusion.config import DiffusionConfig
from stages.model.config import LinearCodec
from stages.recipe import Recipe, load_recipe, recipe_tree
from tests.bench.folder import BEFORE

ROOT = Path(__file__).parents[1]
USED = ("folder", "emoji")
# Keys and sections that are learnt on shapes.toml and are the same everywhere.
LEARNT = (
    "diffusion",
    "model.codec",
    "model.image_positions",
    "model.qk_norm",
    "train.optimizer",
    "train.learning_rate",
    "train.final_learning_rate",
    "train.rate_schedule",
    "train.decay_share",
    "train.weight_decay",
    "train.clip_norm",
    "train.ema_decay",
)
# What a recipe has otherwise, and why.
EXCEPTIONS = {
    ("emoji", "train.weight_decay"): "1,632 pictures are learnt by heart in minutes: a higher decay holds that up",
}
DERIVED = ("pack.row_length", "tokenize.tokenizer.vocab_size", "model.rope_base")


def value(recipe: Recipe | str, key: str) -> Any:
    """A key or a section of a resolved recipe as plain values."""
    found: Any = recipe_tree(load_recipe(recipe) if isinstance(recipe, str) else recipe)
    for part in key.split("."):
        found = found[part]
    return found


@pytest.mark.parametrize("key", LEARNT)
@pytest.mark.parametrize("recipe", USED)
def test_the_settings_that_won_are_those_that_people_use(recipe: str, key: str) -> None:
    same = value(recipe, key) == value("shapes", key)
    if (recipe, key) in EXCEPTIONS:
        assert not same, f"{key} is no exception any more: {EXCEPTIONS[recipe, key]}"
    else:
        assert same, f"{recipe}.toml has {key} = {value(recipe, key)}, shapes.toml {value('shapes', key)}"


def test_no_setting_that_won_is_left_out_of_the_comparison() -> None:
    """Of the sections that are compared by key, each one that shapes.toml sets is compared, or is of its data or its length."""
    said = tomllib.loads((ROOT / "recipes" / "shapes.toml").read_text())
    of_its_own = {
        *("model.width", "model.layers", "model.heads", *DERIVED),
        *("train.steps", "train.batch_rows", "train.warmup_steps", "train.precision"),
        *("train.eval_every", "train.save_every", "train.preview_every"),
    }
    keys = {f"{section}.{key}" for section in ("model", "train") for key in said[section]}
    assert keys - of_its_own - set(LEARNT) == set()
    assert "train.learning_rate" in keys


@pytest.mark.parametrize("recipe", USED)
def test_what_the_data_decides_is_derived_from_it(recipe: str) -> None:
    assert [value(recipe, key) for key in DERIVED] == ["auto"] * 3


def test_the_benchmark_holds_the_settings_of_before() -> None:
    """The paper's in all but the learning rate, whatever the recipe has today."""
    before = load_recipe("folder", BEFORE)
    assert (before.diffusion, before.model.codec) == (DiffusionConfig(), LinearCodec())
    assert [value(before, key) for key in DERIVED] == [512, 2000, 10_000.0]
    assert (before.train.optimizer, before.train.learning_rate) == ("adamw", 1e-3)


def test_the_defaults_and_the_recipes_of_the_paper_derive_nothing() -> None:
    """Section 4.1 of the paper: rows of 4,096."""
    plain = Recipe.model_validate({"name": "x", "source": {"kind": "shapes"}})
    assert [value(plain, key) for key in DERIVED] == [4096, 1024, 10_000.0]
    assert value(plain, "diffusion.noise_draws") == 1
    papers = sorted(path.stem for path in (ROOT / "recipes").glob("paper-*.toml"))
    assert len(papers) == 10
    for paper in papers:
        assert [value(paper, key) for key in DERIVED] == [4096, 32_000, 10_000.0], paper
