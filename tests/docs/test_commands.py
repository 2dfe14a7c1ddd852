"""The commands and the Python of README and docs, run on a tiny finished world; examples/ too."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.bad_inputs.lab import Lab, Shelf
from tests.docs.blocks import PAGES, ROOT, Block, blocks

# What would take long says instead what it would do.
PLANNED = ("run", "vae", "encode", "tokenize", "pack", "train", "eval")
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands() -> list[tuple[str, str]]:
    """(page, command) of each line of a bash block; a comment at its end is left out."""
    pages = [page for page in PAGES if page.parent.name != "adding"]  # they need their changes: test_adding.py
    lines = [(block.page, line) for page in pages for block in blocks(page, "bash") for line in block.text.splitlines()]
    return list(dict.fromkeys((page.name, re.sub(r"\s+# .*", "", line)) for page, line in lines if line.strip()))


def scripts() -> list[Block]:
    """Python blocks that are whole scripts; those that begin with a path are files of the examples in docs/adding."""
    return [block for page in PAGES for block in blocks(page, "python") if not block.text.startswith("# stages/")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, shelf: Shelf) -> Path:
    """A folder as the pages speak of it: work/shapes and work/smoke with a checkpoint, pictures, prompts, the recipes."""
    folder = tmp_path_factory.mktemp("finished") / "here"
    (folder / "work").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        lab = Lab(folder / "lab", shelf, patch)
        for stage in ("encode", "tokenize", "pack", "train"):
            outcome = lab.run(stage, "--set", "pack.row_length=256", "--set", "sample.generation.sampler.steps=2")
            assert outcome.code == 0, outcome.stderr
    for name in ("shapes", "smoke"):
        shutil.copytree(folder / "lab" / "work", folder / "work" / name)
    shutil.copytree(folder / "lab" / "pictures", folder / "my" / "pictures")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    Image.new("RGB", (16, 16), "red").save(folder / "photo.png")
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 0, 8, 16))
    mask.save(folder / "hole.png")
    (folder / "documents.jsonl").write_text('{"parts": [{"image": "photo.png"}, {"text": "blue"}], "draw": true}\n')
    return folder


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished)
    monkeypatch.setattr("webbrowser.open", lambda _: True)
    return finished


def smoke_sized(arguments: list[str]) -> list[str]:
    """A command of a page as it is tried here: a stage only says what it would do, in an empty work folder, and plans are of the
    smoke recipe; sampling takes two steps."""
    if "--help" in arguments:
        return arguments
    if arguments[0] in (*PLANNED, "plan"):
        arguments = ["smoke" if re.fullmatch(r"shapes|paper-[\w.]+", word) else word for word in arguments]
    if arguments[0] in PLANNED:
        return [*arguments, "--work", "work/empty", "--dry-run"]
    if arguments[0] == "sample":
        index = arguments.index("--steps") if "--steps" in arguments else len(arguments)
        return [*arguments[:index], "--steps", "2", *arguments[index + 2 :], "--device", "cpu"]
    return arguments


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda value: value.replace(".venv/bin/", ""))
def test_a_command_of_the_pages(page: str, command: str) -> None:
    from tfcli.app import app

    words = shlex.split(command)
    if words[0] == "make":
        assert words[1] in TARGETS, page
        return
    program, *arguments = words
    if "torchrun" in command:  # its own options, then -m tfcli
        program, arguments = ".venv/bin/tfcli", words[words.index("tfcli") + 1 :]
    if program == ".venv/bin/pip":  # fetches
        return
    assert program == ".venv/bin/tfcli", f"{page}: what is {program}?"
    result = CliRunner().invoke(app, smoke_sized(arguments), prog_name="tfcli")
    assert result.exit_code == 0, f"{page}: {command}\n{result.output}"


@pytest.mark.parametrize("block", scripts(), ids=lambda block: f"{block.page.name}-{len(block.text)}")
def test_the_python_of_the_pages(block: Block, here: Path) -> None:
    path = here / "script.py"
    path.write_text(block.text)
    runpy.run_path(str(path), run_name="__main__")


def test_examples_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(name: str, *arguments: str) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [name, *arguments])
            runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    out = call("draw.py", "work/shapes", "a small thing")
    assert (here / "drawn-1.png").exists()
    assert out.count("sample ") == 2
    out = call("read_latents.py", "work/shapes/latents")
    assert "(6, 2, 4, 8, 8)" in out
    assert out.count("a small thing") == 3
    call("make_documents.py", "my-documents")
    from tfcli.app import app

    result = CliRunner().invoke(app, ["doctor", "my-documents/documents.jsonl"])
    assert result.exit_code == 0, result.output
    assert "pictures      12" in result.output


def test_the_example_that_reads_latents_imports_nothing_of_ours() -> None:
    code = "import sys; sys.argv = ['']; sys.path.insert(0, 'examples'); import read_latents; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "read_latents" in done.stdout
    assert not {"tfcli", "stages"} & set(done.stdout.split())


def test_every_example_is_run() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {
        "draw.py",
        "read_latents.py",
        "make_documents.py",
    }
    assert len(commands()) > 40
    assert len(scripts()) >= 4
