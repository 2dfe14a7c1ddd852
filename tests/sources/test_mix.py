"""Several sources as one: nothing is lost or confused, and each keeps its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from stages.recipe import load_recipe
from stages.sources.document import Document, Omission
from stages.sources.folder import Folder
from stages.sources.mix import Mix
from stages.sources.text import TextFiles
from tests.sources.test_folder import put


def make(folder: Path) -> Mix:
    for name in ("photos", "drawings"):
        (folder / name).mkdir()
        put(folder / name, "one.png", f"one of {name}")
        put(folder / name, "bare.png")
    (folder / "book.txt").write_text("once")
    return Mix(
        of={
            "photos": Folder(path=str(folder / "photos")),
            "drawings": Folder(path=str(folder / "drawings"), missing_caption="empty"),
            "books": TextFiles(path=str(folder / "book.txt")),
        }
    )


def test_documents_of_each_source_in_turn_under_its_name(tmp_path: Path) -> None:
    mix = make(tmp_path)
    items = list(mix.documents())
    documents = [(item.key, item.source) for item in items if isinstance(item, Document)]
    assert documents == [
        ("photos/one", "photos"),
        ("drawings/bare", "drawings"),
        ("drawings/one", "drawings"),
        ("books/book", "books"),
    ]
    assert [item.key for item in items if isinstance(item, Omission)] == ["photos/bare"]
    assert mix.count() == (5, 4)


def test_the_identity_changes_with_any_source(tmp_path: Path) -> None:
    mix = make(tmp_path)
    before = mix.identity()
    (tmp_path / "book.txt").write_text("twice")
    assert mix.identity() != before
    assert "photos: pictures in" in mix.describe()
    assert "books: text in" in mix.describe()


def test_a_recipe_names_them(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        '[source]\nkind = "mix"\n[source.of.photos]\nkind = "folder"\npath = "p"\n[source.of.books]\nkind = "text"\npath = "b"\n'
    )
    source = load_recipe(recipe).source
    assert isinstance(source, Mix)
    assert list(source.of) == ["photos", "books"]


def test_no_mix_in_a_mix_and_no_odd_names() -> None:
    with pytest.raises(ValidationError):
        Mix.model_validate({"of": {"a": {"kind": "mix", "of": {}}}})
    with pytest.raises(ValidationError):
        Mix.model_validate({"of": {"a/b": {"kind": "text", "path": "x"}}})
    with pytest.raises(ValidationError):
        Mix.model_validate({"of": {}})
