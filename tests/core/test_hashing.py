"""Equal values have equal hashes, others have others, and what has no single text is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.core.hashing import canonical_json, hash_file, hash_value

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


@given(VALUES)
def test_the_text_means_the_value_and_nothing_else(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(), SCALARS))
def test_order_of_keys_does_not_count(value: dict[str, Any]) -> None:
    assert hash_value(dict(reversed(value.items()))) == hash_value(value)


def test_near_values_differ() -> None:
    values = [1, 1.5, "1", True, None, "", [], {}, [1], [[1]], {"1": 1}, [1, 2], [2, 1], "a,b", ["a", "b"]]
    assert len({hash_value(value) for value in values}) == len(values)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_what_has_no_json_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        hash_value(value)


def test_names_that_are_no_unicode_have_hashes() -> None:
    assert hash_value("\udcff") != hash_value("\udcfe")


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1])
def test_a_file_is_hashed_whole(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "f").write_bytes(data)
    assert hash_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()
