"""The rules of the house that a glance cannot hold: import directions, homes of libraries, nothing that runs pickles."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("stages/**/*.py"), *ROOT.glob("tfcli/**/*.py")])
STAGE_FOLDERS = (
    "train_autoencoder",
    "encode_images",
    "tokenize_text",
    "pack_sequences",
    "train_model",
    "sample_model",
    "evaluate_model",
)
SHARED = ("sources", "artifacts", "coders", "diffusion", "model")
# Each outside library has one home.
HOMES = {
    "zarr": ("stages/artifacts/arrays.py",),
    "diffusers": ("stages/coders/vae.py", "stages/diffusion/unipc.py"),
    "sentencepiece": ("stages/coders/text.py",),
    "PIL": ("stages/coders/pixels.py", "stages/coders/sheets.py", "stages/coders/glance.py"),
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


def may_import(path: Path) -> set[str] | None:
    """The folders of stages/ that a file may import from; None: any."""
    parts = path.relative_to(ROOT).parts
    folder = parts[1] if parts[0] == "stages" and len(parts) > 2 else ""
    if folder == "core":
        return {"core"}
    if folder in SHARED:
        return {"core", *SHARED}
    if folder in ("generation", "checkup", "preview"):
        return {"core", folder, *SHARED}
    if folder in STAGE_FOLDERS:  # a stage imports no other stage
        return {"core", "generation", folder, *SHARED}
    return None


def test_imports_run_one_way() -> None:
    wrong = []
    for path in FILES:
        may = may_import(path)
        for module in sorted(imports(path)):
            root, *rest = module.split(".")
            upwards = root == "tfcli" and name(path).startswith("stages/")
            sideways = root == "stages" and may is not None and bool(rest) and rest[0] not in may
            if upwards or sideways:
                wrong.append(f"{name(path)} imports {module}")
    assert wrong == []


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
