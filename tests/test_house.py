"""The rules of the house that a glance cannot hold: import directions, homes of libraries, nothing that runs pickles."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("stages/**/*.py"), *ROOT.glob("tfcli/**/*.py")])
# Layers from the lowest to the highest. A folder imports from lower layers only; folders of one layer do not import each other.
LAYERS = (
    ("core",),
    ("model", "diffusion", "coders", "pages"),
    ("artifacts", "sources"),
    ("generation", "doctor", "preview"),
    (
        "train_autoencoder",
        "encode_images",
        "tokenize_text",
        "pack_sequences",
        "train_model",
        "sample_model",
        "evaluate_model",
    ),
    ("estimate_training",),
    (
        "recipe",
        "recipe_errors",
        "recipe_keys",
        "recipe_origins",
        "recipe_schema",
    ),  # assemble and describe the sections of all stages
    ("pipeline",),
    ("tfcli",),
)
LAYER_OF = {folder: number for number, layer in enumerate(LAYERS) for folder in layer}
# Each outside library has one home.
HOMES = {
    "zarr": ("stages/artifacts/arrays.py",),
    "diffusers": ("stages/coders/vae.py", "stages/diffusion/unipc.py"),
    "sentencepiece": ("stages/coders/text.py",),
    "PIL": ("stages/coders/pixels.py", "stages/coders/sheets.py", "stages/coders/header.py"),
    "webdataset": ("stages/sources/",),
    "pyarrow": ("stages/sources/",),
    "ray": ("stages/encode_images/engines.py",),
    "rich": ("tfcli/",),
    "typer": ("tfcli/",),
}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(path: Path) -> set[str]:
    """Every module that a file imports."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def folder_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "tfcli" else parts[1]


def test_imports_run_one_way() -> None:
    """Every import of our own code leads to the same folder or to a lower layer."""
    wrong = []
    for path in FILES:
        here = folder_of(path)
        for module in sorted(imports(path)):
            parts = module.split(".")
            there = parts[1] if parts[0] == "stages" and len(parts) > 1 else parts[0]
            ours = parts[0] in ("stages", "tfcli") and there in LAYER_OF and there != here
            if ours and here.startswith("recipe") and there.startswith("recipe"):
                continue  # files of one subject
            if ours and LAYER_OF[there] >= LAYER_OF.get(here, -1):
                wrong.append(f"{name(path)} imports {module}")
    assert not wrong, "lower layers must not import higher ones, nor folders of one layer each other"


def test_every_folder_has_a_layer() -> None:
    assert {folder_of(path) for path in FILES} - {"__init__"} == set(LAYER_OF)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions and under TYPE_CHECKING count too: each module can be read before those that use it."""
    graph = {}
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    for module, path in modules.items():
        graph[module] = {other for other in imports(path) if other in modules and other != module}
    for module, others in graph.items():  # a package's __init__ stands for nothing that its modules need
        graph[module] = {other for other in others if not module.startswith(f"{other}.")}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_libraries_stay_in_their_homes() -> None:
    wrong = []
    for path in FILES:
        for module in sorted(imports(path)):
            homes = HOMES.get(module.split(".")[0])
            if homes is not None and not name(path).startswith(homes):
                wrong.append(f"{name(path)} imports {module}, which belongs in {homes}")
    assert wrong == []


FORBIDDEN_CALLS = ("torch.load", "eval", "exec", "yaml.load", "np.load", "os.system")
FORBIDDEN_ARGUMENTS = ("shell", "trust_remote_code", "allow_pickle")
PICKLES = ("pickle", "dill", "cloudpickle")


def test_nothing_runs_pickles_or_shells() -> None:
    wrong = []
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                bad = [called] if called in FORBIDDEN_CALLS else []
                bad += [str(word.arg) for word in node.keywords if word.arg in FORBIDDEN_ARGUMENTS]
                wrong += [f"{name(path)}:{node.lineno}: {what}" for what in bad]
        if name(path) != "stages/train_autoencoder/lpips_weights.py":
            wrong += [f"{name(path)} imports {module}" for module in imports(path) if module.split(".")[0] in PICKLES]
    assert wrong == []


# Files by names that others could have made are opened in one place, which refuses pipes and devices and stops at a limit. What
# else opens a file, and why: its own file, for writing; a descriptor; the kernel's own; a file inside an installed package.
OPENERS = {
    "stages/core/reading.py": 1,  # the place
    "stages/core/files.py": 1,  # writes
    "stages/core/memory.py": 1,  # /proc
    "stages/artifacts/folder.py": 1,  # writes
    "stages/artifacts/lock.py": 1,  # a descriptor
    "stages/recipe.py": 1,  # a pipe of the shell's, once
    "stages/sources/emoji.py": 1,  # a drawing of the package
}


def test_files_are_opened_in_one_place() -> None:
    found = {}
    for path in FILES:
        calls = [node.func for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
        named = [call for call in calls if isinstance(call, ast.Attribute) and call.attr in ("read_bytes", "read_text")]
        named += [
            call for call in calls if isinstance(call, ast.Attribute) and call.attr == "open" and _opens_a_path(call)
        ]
        named += [call for call in calls if isinstance(call, ast.Name) and call.id == "open"]
        if named or name(path) == "stages/core/reading.py":
            found[name(path)] = max(1, len(named))
    assert found == OPENERS, "read with stages.core.reading: open_plain, read_bounded"


def _opens_a_path(call: ast.Attribute) -> bool:
    """`path.open(...)`, not `Latents.open(...)`, `tarfile.open(...)`, `Image.open(...)`, `tracker.open(...)`."""
    owner = ast.unparse(call.value)
    return not owner[:1].isupper() and owner not in ("tarfile", "os", "gzip", "webbrowser", "tracker", "zarr")


def test_files_open_with_a_docstring_and_stay_short() -> None:
    wrong = []
    for path in FILES:
        text = path.read_text()
        if not name(path).endswith("__init__.py") and not ast.get_docstring(tree_of(path)):
            wrong.append(f"{name(path)} opens without a docstring")
        if len(text.splitlines()) > 400:
            wrong.append(f"{name(path)} has {len(text.splitlines())} lines, more than 400")
        if not text.isascii():
            wrong.append(f"{name(path)} is not ASCII")
    assert wrong == []


def test_a_public_name_means_one_thing() -> None:
    """Search for a name leads to one definition. Commands have the names of stages; every stage has `run`; `Text` and `lineage`
    are words of a command and of what it shows."""
    found: dict[str, list[str]] = {}
    for path in FILES:
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(name(path))
    for word in ("run", "main"):
        found.pop(word, None)
    twice = {
        word: paths
        for word, paths in found.items()
        if len([path for path in paths if not path.startswith("tfcli/commands/")]) > 1
    }
    assert twice == {}


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    code = "import sys, tfcli.app; print(*sorted({'torch','zarr','diffusers','webdataset','sentencepiece'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == ""


def test_benchmarks_find_what_they_import() -> None:
    """They run by hand only, and types are checked in tfcli and stages alone: a renamed class must not wait to be found."""
    for path in sorted(ROOT.glob("tests/bench/*.py")):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("stages", "tfcli", "tests")):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")  # a module, or an error that names it
