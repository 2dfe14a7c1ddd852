"""The files at the root of the repository: what they name exists, versions agree, tools are those of the Makefile."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
FILES = {
    "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CITATION.cff", "LICENSE", "Makefile", "pyproject.toml",
    "setup.py", "requirements.txt", ".gitignore", ".pre-commit-config.yaml",
}  # fmt: skip
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def read(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_and_targets_that_a_document_names_exist(name: str) -> None:
    text = read(name)
    words = re.findall(r"`([^`\n]+)`", text)
    paths = [word for word in words if re.fullmatch(r"[\w.-]+(/[\w.-]*)+|[\w-]+\.(md|toml|txt|cff|py)", word)]
    paths += [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "//" not in target]
    made = ("report.html", "metadata.jsonl")  # files of an artifact or of a user's data
    assert not [path for path in paths if not (ROOT / path).exists() and path not in made]
    targets = re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE)
    assert not [target for target in re.findall(r"\bmake ([a-z][a-z-]+)`", text) if target not in targets]
    assert not re.findall(r"(?<![\w.])/(?:work|home|root|tmp)/\S*", text), "a path outside of the repository"
    text.encode("ascii")
    if name == "CONTRIBUTING.md":
        assert {"tests/test_house.py", "stages/core/reading.py"} <= {*paths}


def test_the_first_version_of_the_changelog_is_the_version() -> None:
    heading = next(line for line in read("CHANGELOG.md").splitlines() if line.startswith("## "))
    assert heading.split()[1] == VERSION


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == VERSION
    assert citation["license"] == "MIT"
    assert citation["references"][0]["url"] == "https://arxiv.org/abs/2408.11039"
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()


def test_hooks_run_what_make_runs() -> None:
    hooks: list[dict[str, Any]] = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    made = read("Makefile").replace("$(BIN)", ".venv/bin")
    checks = [hook["entry"] for hook in hooks]
    for entry in checks:
        program = shlex.split(entry)
        if "pytest" in program:
            assert (ROOT / program[-1]).is_file()
        else:
            assert re.search(rf"^\t{re.escape(entry)}( \.)?$", made, re.MULTILINE), entry
    assert {".venv/bin/ruff check", ".venv/bin/ruff format --check", ".venv/bin/mypy"} <= {*checks}


def test_the_top_level_has_the_usual_files_only() -> None:
    """Of what git knows or would add; what a build or a run leaves is ignored."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a checkout")
    there = {line for line in done.stdout.splitlines() if "/" not in line and (ROOT / line).exists()}
    folders = {line.partition("/")[0] for line in done.stdout.splitlines() if "/" in line}
    assert there <= FILES
    assert FILES - {"setup.py"} <= there
    assert folders <= {"tfcli", "stages", "recipes", "tests", "docs", "examples", ".ci"}
