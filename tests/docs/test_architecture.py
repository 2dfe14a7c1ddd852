"""The table of shapes in docs/architecture.md against a real batch."""

from __future__ import annotations

import re
from operator import attrgetter

import torch

from tests.docs.blocks import ROOT
from tests.docs.test_drawings import drawn_batch

PAGE = ROOT / "docs" / "architecture.md"


def rows() -> list[tuple[str, str]]:
    """(field, shape) of each field of Batch that the page lists, as the page writes them."""
    table = PAGE.read_text().split("| field of `Batch` |", 1)[1].split("\n\n", 1)[0]
    found, folder = [], ""
    for line in table.splitlines()[2:]:
        names, shape = line.split("|")[1:3]
        for name in re.findall(r"`([^`]+)`", names):
            folder = name.rpartition(".")[0] if "." in name or folder == "" else folder
            found.append((name if "." in name or folder == "" else f"{folder}.{name}", shape.strip()))
        folder = ""
    return found


def test_each_field_of_the_table_has_its_type_and_shape() -> None:
    batch, sizes, checked = drawn_batch(), {}, 0
    for name, shape in rows():
        if shape == "the same":
            assert hasattr(batch.inputs, "context")
            continue
        value: object = batch
        for part in name.split("."):
            value = attrgetter(part.removesuffix("[g]"))(value)
            value = value[0] if part.endswith("[g]") else value  # type: ignore[index]
        assert isinstance(value, torch.Tensor), name
        kind, letters = re.fullmatch(r"(\w+) `\((.*?),?\)`", shape).groups()  # type: ignore[union-attr]
        assert value.dtype == getattr(torch, kind), name
        assert value.ndim == len(letters.split(", ")), name
        for letter, size in zip(letters.split(", "), value.shape, strict=True):
            assert sizes.setdefault(letter, size) == size, f"{name}: {letter} is {size} here and {sizes[letter]} before"
        checked += 1
    assert checked >= 10
    assert {"N", "T", "I", "P", "C", "h", "w", "M"} <= sizes.keys()
