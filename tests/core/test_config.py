"""Sections are strict and frozen; only fields that can change the result reach the fingerprint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, ValidationError

from stages.core.config import Section, later, neutral, result_config


class Inner(Section):
    size: int = 1
    log_every: int = neutral(10, ge=1)


class Outer(Section):
    name: str = "a"
    path: Path = Path("x/y")
    one: Inner = Inner()
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] = Field(default_factory=dict)
    workers: int = neutral(2)
    nothing: float | None = None


def test_neutral_fields_stay_out_at_every_depth() -> None:
    outer = Outer(many=(Inner(size=2),), named={"k": Inner(size=3)})
    assert result_config(outer) == {
        "name": "a",
        "path": "x/y",
        "one": {"size": 1},
        "many": [{"size": 2}],
        "named": {"k": {"size": 3}},
        "nothing": None,
    }
    assert json.loads(json.dumps(result_config(outer))) == result_config(outer)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"workers": 9}, True),
        ({"one": {"log_every": 3}}, True),
        ({"one": {"size": 2}}, False),
        ({"name": "b"}, False),
        ({"path": "x/z"}, False),
        ({"nothing": 0.0}, False),
        ({"many": [{}]}, False),
    ],
)
def test_only_what_changes_the_result_changes_it(changes: dict[str, Any], same: bool) -> None:
    assert (result_config(Outer.model_validate(changes)) == result_config(Outer())) == same


@pytest.mark.parametrize(
    "changes",
    [
        {"nmae": "b"},
        {"one": {"sise": 1}},
        {"one": {"log_every": 0}},
        {"nothing": float("nan")},
        {"nothing": float("inf")},
    ],
)
def test_what_a_section_does_not_know_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Outer.model_validate(changes)


def test_a_section_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Outer().name = "b"


class Grown(Section):
    """A section that has got a field since artifacts were made with it."""

    steps: int = 3
    keep: str = later("")


def test_a_later_field_is_in_the_fingerprint_only_when_set() -> None:
    assert result_config(Grown()) == {"steps": 3}
    assert result_config(Grown(keep="")) == {"steps": 3}
    assert result_config(Grown(keep="x")) == {"steps": 3, "keep": "x"}
