"""`from tfcli import load`: what it gives, what it imports, what a type checker sees of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import stages.core.errors
import stages.sample_model
import tfcli

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numpy", "zarr", "diffusers", "PIL", "pydantic")


def test_the_names_are_those_of_the_library() -> None:
    for name in ("load", "Text", "Picture", "Step", "End"):
        assert getattr(tfcli, name) is getattr(stages.sample_model, name)
        assert name in dir(tfcli)
    assert tfcli.TfcliError is stages.core.errors.TfcliError
    with pytest.raises(ImportError, match="cannot import name 'Lode' from 'tfcli'"):
        exec("from tfcli import Lode")


def test_importing_the_api_imports_no_library() -> None:
    code = (
        f"import sys, tfcli; from tfcli import load, Text, Picture, Step, End, TfcliError; "
        f"print(*sorted(set({HEAVY}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == ""


def test_a_failure_of_load_is_the_exported_error(tmp_path: Path) -> None:
    from tfcli import TfcliError, load

    with pytest.raises(TfcliError, match="nothing") as caught:
        load(tmp_path / "nothing")
    assert caught.value.__notes__ == [f"why: {caught.value.why}", f"fix: {caught.value.fix}"]  # a traceback shows them


USER = """
from pathlib import Path
from tfcli import End, Picture, Step, Text, TfcliError, load

model = load("work/shapes/checkpoint")
for event in model.generate(["a", Path("b.png")], seed=7):
    match event:
        case Text(text=text):
            reveal_type(text)
        case Step(done=done):
            reveal_type(done)
        case Picture(image=image):
            reveal_type(image)
        case End(reason=reason):
            reveal_type(reason)
        case _ as rest:
            reveal_type(rest)
"""


@pytest.mark.slow
def test_a_type_checker_knows_them(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "wrong.py").write_text("from tfcli import Lode\n")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [*command, str(tmp_path / "user.py"), str(tmp_path / "wrong.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    notes = [line.split('"')[1] for line in done.stdout.splitlines() if "Revealed type" in line]
    assert notes[:2] == ["str", "float"], done.stdout
    assert "Image" in notes[2]
    assert notes[3] == "str"
    assert notes[4:] in ([], ["Never"]), "the five events are all there are"
    assert 'Module "tfcli" has no attribute "Lode"' in done.stdout
    assert done.stdout.count(": error:") == 1
