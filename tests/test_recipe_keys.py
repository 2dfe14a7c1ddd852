"""Every key of a recipe is described, is found by its name, and its type and default are said as they are."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from stages.core.config import Section
from stages.recipe import Recipe
from stages.recipe_keys import all_names, all_sections, described, find, near, type_words
from tests.recipe_sections import section_models
from tfcli.explained import default_text


def undescribed(sections: list[type[BaseModel]]) -> list[str]:
    """Fields without a description of at least two words that ends as a sentence does, and sections without one."""
    found = []
    for model in sections:
        texts = {name: described(model, name) for name in model.model_fields} | {"": model.__doc__ or ""}
        bad = [name for name, text in texts.items() if len(text.split()) < 2 or text.strip()[-1] not in '.")']
        found += [f"{model.__name__}.{name}" for name in bad]
    return found


def test_every_key_has_a_description() -> None:
    assert len(section_models()) > 30
    assert undescribed(section_models()) == []


class Careless(Section):
    """A section whose author forgot one."""

    steps: int = 3
    """How many steps there are."""
    rate: float = 0.1


def test_a_key_without_a_description_is_found() -> None:
    assert undescribed([Careless]) == ["Careless.rate"]


def test_a_section_that_inherits_keeps_the_descriptions() -> None:
    mixed = find("sample.prompts.negative")
    assert mixed is not None
    assert mixed.keys[0].description.startswith("Text that guidance leads away from")


def test_a_key_is_found_with_its_type_and_default() -> None:
    found = find("train.ema_decay")
    assert found is not None
    (key,) = found.keys
    assert (key.type, key.default) == ("number, at least 0 and below 1", 0.999)
    assert (key.kind, key.required, key.is_section, found.sections) == ("", False, False, ())
    assert "running average" in key.description


def test_a_key_of_several_kinds_is_found_once_for_each() -> None:
    found = find("vae.heldout_pictures")
    assert found is not None
    assert [key.kind for key in found.keys] == ["train", "pretrained"]
    source = find("source")
    assert source is not None
    assert [section.kind for section in source.sections if section.name == "source"] == [
        "folder", "webdataset", "jsonl", "parquet", "text", "emoji", "shapes", "shapes-edits", "mix"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "source.of.photos.path",
        "source.of.of.path",
        "tokenize.text.path",
        "tokenize.text.0.path",
        "sample.prompts.1.begin.mask",
        "extends",
    ],
)
def test_entries_are_found_by_their_name_or_number(name: str) -> None:
    found = find(name)
    assert found is not None
    assert {key.name for key in found.keys} == {name}


@pytest.mark.parametrize(
    "name", ["", "train.", "train.stepz", "train.steps.x", "train.0.steps", "photos", "source.extends", "0"]
)
def test_what_is_no_key_is_not_found(name: str) -> None:
    assert find(name) is None


def test_every_name_is_found_again() -> None:
    names = all_names()
    assert len(names) > 200
    for name in names:
        found = find(name)
        assert found is not None
        assert {key.name for key in found.keys} == {name}, name


def test_suggestions_are_keys_that_are_like_it() -> None:
    assert near("train.ema_decai")[0] == "train.ema_decay"
    assert {"train.ema_decay", "vae.ema_decay"} <= set(near("ema_decay"))
    assert near("trian") == ["train"]
    assert "train.ema_decay" in near("ema")
    assert near("path")[0] == "source.path"
    assert near("source.json")[0] == "source.json_key"
    assert near("guidanc")[0].endswith(".guidance")
    assert near("qqqqqqq") == []


def test_defaults_are_those_of_the_sections() -> None:
    """A recipe that sets each key to the default that is said of it is the recipe that sets none."""
    lines = []
    for section in all_sections():
        if section.kind or not section.name or section.name.startswith(("sample.prompts", "source")):
            continue
        name = section.same_as or section.name
        keys = next(each.keys for each in all_sections() if each.name == name and each.keys)
        lines.append(f"[{section.name}]")
        lines += [
            f"{key.name.rpartition('.')[2]} = {default_text(key)}" for key in keys if _is_plain(default_text(key))
        ]
    assert len(lines) > 100
    given = {"name": "x", "source": {"kind": "shapes"}}
    assert Recipe.model_validate(tomllib.loads("\n".join(lines)) | given) == Recipe.model_validate(given)


def _is_plain(default: str) -> bool:
    return bool(default) and default not in ("required", "not set") and not default.startswith("kind = ")


@pytest.mark.parametrize(
    ("annotation", "field", "words"),
    [
        (int, Field(1, ge=1, le=1000), "whole number, at least 1 and at most 1,000"),
        (float | None, Field(None, gt=0), "number, above 0"),
        (bool | Literal["auto"], "auto", 'true or false or "auto"'),
        (tuple[float, float], (0, 1), "list of 2 numbers"),
        (tuple[Annotated[str, Field(min_length=1)], ...], (), "list of texts, each not empty"),
        (dict[str, Annotated[float, Field(ge=0)]], {}, "table of names and numbers, each at least 0"),
        (Path | None, None, "path"),
    ],
)
def test_types_in_words(annotation: Any, field: Any, words: str) -> None:
    model = type("One", (BaseModel,), {"__annotations__": {"key": annotation}, "key": field})
    assert type_words(model.model_fields["key"]) == words
