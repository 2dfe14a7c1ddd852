"""A small world for the command line: a recipe, a text source, and stages that only write a few bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from stages.artifacts.form import Form
from stages.artifacts.kinds import FORMS
from stages.core.events import Progress

RECIPE = """description = "a [bold]tiny[/bold] one"
[source]
kind = "text"
path = "novel.txt"
[train]
steps = 7
[sample]
prompts = ["a cat"]
"""


class World:
    """The folder of a test. `made` lists the stages that ran; `during[stage]` is called in the middle of that stage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[str] = []
        self.during: dict[str, Callable[[Any], None]] = {}
        (folder / "recipes").mkdir()
        (folder / "recipes" / "tiny.toml").write_text(RECIPE)
        (folder / "novel.txt").write_text("once upon a time")

    def module(self, name: str) -> Any:
        """Stands in for import_module in stages.pipeline: only a stage's module is replaced, not its config."""
        if not name.endswith(".stage"):
            return import_module(name)

        def run(*, context: Any, **given: Any) -> None:
            build, runtime, seed = context.build, context.runtime, context.seed
            stage = build.stamp.stage
            self.made.append(stage)
            runtime.report(Progress(stage, 0, 2, "things"))
            # the section vae does not show in the bytes: that is how the early cutoff is tried
            shown = {key: str(value) for key, value in given.items() if key != "vae" and not isinstance(value, Path)}
            (build.folder / "data.bin").write_text(
                json.dumps([shown, build.stamp.fingerprint_inputs()["inputs"], seed])
            )
            if stage in self.during:
                self.during[stage](runtime)
            if stage == "sample":
                (build.folder / "index.html").write_text("<html>")
                (build.folder / "records.jsonl").write_text("")
            runtime.report(Progress(stage, 2, 2, "things"))
            build.seal({"rows": 3}, {"seconds": 0.5, "judge": {"right_[red]": 0.25}, "history": [1, 2]})

        return SimpleNamespace(run=run)

    def call(self, *args: str) -> Result:
        """Run a command line in this process."""
        from tfcli.app import app

        self.made.clear()
        return CliRunner().invoke(app, list(args))

    def json(self, *args: str) -> Any:
        """Run a command that must succeed and print one JSON object."""
        result = self.call(*args)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("TFCLI_WORK", "TFCLI_DEVICE"):  # of whoever runs the tests
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("stages.pipeline.import_module", made.module)
    for kind in FORMS:
        monkeypatch.setitem(FORMS, kind, Form(("data.bin", "index.html", "records.jsonl")))
    monkeypatch.setattr("stages.recipe.recipe_folders", lambda: [Path("recipes")])
    return made
