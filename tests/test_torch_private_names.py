"""The private names of torch that the code uses exist in the installed torch: a torch without one of them fails here, by name,
and not in the middle of a training. Found in the code itself, so that a new one is checked too."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("stages/**/*.py"))
# Attributes of objects of torch, which no dotted name shows: where the object comes from.
OF_OBJECTS = {"_cdata": lambda: torch.zeros(1).untyped_storage()}


def dotted(node: ast.expr, aliases: dict[str, str]) -> str | None:
    """`torch.ops.mkldnn._linear_pointwise` of an attribute chain that starts at torch or at an alias of a part of it."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or not names:
        return None
    start = aliases.get(node.id)
    return None if start is None else ".".join([start, *reversed(names)])


def aliases_of(tree: ast.Module) -> dict[str, str]:
    """Names of a file that stand for torch, its modules and what is imported from them."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {
                alias.asname or "torch": alias.name if alias.asname else "torch"
                for alias in node.names
                if alias.name.split(".")[0] == "torch"
            }
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in tree.body:  # _aten = torch.ops.aten
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = dotted(node.value, aliases)
            if value is not None:
                aliases[node.targets[0].id] = value
    return aliases


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def private_names(text: str) -> Iterator[str]:
    """The private names of torch in a file: those that it imports and those that it reaches by attributes."""
    tree = ast.parse(text)
    aliases = aliases_of(tree)
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and id(node) not in inner:
            name = dotted(node, aliases)
            if name is not None:
                yield name


def found() -> dict[str, list[str]]:
    """Every private name, and the files that use it."""
    names: dict[str, list[str]] = {}
    for path in FILES:
        for name in set(private_names(path.read_text())):
            if is_private(name):
                names.setdefault(name, []).append(path.relative_to(ROOT).as_posix())
    return names


def exists(name: str) -> bool:
    """Whether a dotted name leads to something, by imports of modules and by attributes."""
    here: object = torch
    path = "torch"
    for part in name.split(".")[1:]:
        path = f"{path}.{part}"
        if not hasattr(here, part):
            try:
                importlib.import_module(path)
            except ImportError:
                return False
        here = getattr(here, part)
    return True


def test_private_names_of_torch_exist() -> None:
    names = found()
    missing = [f"{name} ({', '.join(files)})" for name, files in sorted(names.items()) if not exists(name)]
    assert not missing
    # the search itself sees imports, operators, functions and what an alias leads to
    assert names.keys() >= {
        "torch._softmax_backward_data",
        "torch.ops.mkldnn._linear_pointwise.binary",
        "torch.ops.mkldnn._reorder_linear_weight",
        "torch.utils._python_dispatch.TorchDispatchMode",
        "torch.optim._muon._zeropower_via_newtonschulz",
        "torch.ops.aten._scaled_dot_product_flash_attention.default",
    }


@pytest.mark.parametrize("name", OF_OBJECTS)
def test_private_attributes_of_objects_exist(name: str) -> None:
    assert any(re.search(rf"\.{name}\b", path.read_text()) for path in FILES), "nothing uses it any more: take it out"
    assert hasattr(OF_OBJECTS[name](), name)


@pytest.mark.parametrize(
    "text",
    [
        "from torch.optim._muon import _no_such_name",
        "import torch\nx = torch.ops.mkldnn._no_such_operator.binary",
        "import torch\ndef f():\n    return torch._no_such_function(1)",
        "import torch\na = torch.ops.aten\nx = {a._no_such_operator.default}",
        "from torch._no_such_module import something",
    ],
)
def test_a_name_that_is_gone_is_seen(text: str) -> None:
    names = [name for name in private_names(text) if is_private(name)]
    assert names
    assert not any(exists(name) for name in names)


def test_the_private_part_of_muon_is_imported_where_it_runs() -> None:
    """Not at the top of a file: a torch that renames it must not stop a training with AdamW."""
    at_the_top = [
        path.relative_to(ROOT).as_posix()
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch.optim._")
    ]
    assert not at_the_top
