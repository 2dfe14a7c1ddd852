"""The wheel as a user has it: in a venv, by --target, by --user; away from the repository, which it must not see."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("tfcli", "stages", "recipes", "pyproject.toml", "setup.py", "README.md", "LICENSE")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
LIBRARIES = sysconfig.get_path("purelib")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q"]


def run(command: list[str], cwd: Path, **env: str) -> str:
    """Run with an environment of its own: nothing of the caller's leads to the repository. Returns stdout."""
    own = {"PATH": os.environ["PATH"], "HOME": str(cwd), "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1", **env}
    done = subprocess.run(command, cwd=cwd, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_of_the_tree(folder: Path) -> Path:
    """A checkout without what lies around in this one."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            folder.mkdir(exist_ok=True)
            shutil.copy(ROOT / part, folder / part)
    return folder


def git(folder: Path, *command: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return run(["git", *who, *command], folder).strip()


def build(tree: Path) -> Path:
    run([*PIP, "wheel", ".", "--no-deps", "--no-build-isolation", "-w", "dist"], tree)
    return next((tree / "dist").glob("*.whl"))


@dataclass(frozen=True)
class Built:
    """A wheel, the checkout that it was made from, and its commit."""

    wheel: Path
    tree: Path
    commit: str


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    tree = copy_of_the_tree(tmp_path_factory.mktemp("built") / "tree")
    (tree / ".gitignore").write_text("build/\ndist/\n*.egg-info/\n")
    with (tree / "README.md").open("a") as readme:
        readme.write("\nsee [the plan](docs/planted.md)\n")
    git(tree, "init", "-q")
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "all")
    # what an earlier build left: a module that has moved since
    (tree / "build" / "lib" / "stages").mkdir(parents=True)
    (tree / "build" / "lib" / "stages" / "gone.py").write_text("")
    return Built(build(tree), tree, git(tree, "rev-parse", "--short=12", "HEAD"))


@dataclass(frozen=True)
class Installed:
    """root: where the files went. command: how to call it there."""

    root: Path
    command: list[str]
    env: dict[str, str]
    elsewhere: Path

    def call(self, *args: str) -> str:
        return run([*self.command, *args], self.elsewhere, **self.env)

    def json(self, *args: str) -> Any:
        return json.loads(self.call(*args, "--json"))


def in_a_venv(folder: Path, wheel: Path) -> Installed:
    run([sys.executable, "-m", "venv", "--without-pip", "venv"], folder)
    python = folder / "venv" / "bin" / "python"
    run([*PIP, "--python", str(python), "install", "--no-deps", str(wheel)], folder)
    site = next((folder / "venv" / "lib").glob("python*/site-packages"))
    (site / "libraries.pth").write_text(f"{LIBRARIES}\n")  # torch and the others; not the .pth files in there
    return Installed(site, [str(python.parent / "tfcli")], {}, folder / "elsewhere")


def by_target(folder: Path, wheel: Path) -> Installed:
    run([*PIP, "install", "--no-deps", "--target", "target", str(wheel)], folder)
    env = {"PYTHONPATH": f"{folder / 'target'}:{LIBRARIES}"}
    return Installed(folder / "target", [sys.executable, "-m", "tfcli"], env, folder / "elsewhere")


def by_user(folder: Path, wheel: Path) -> Installed:
    python, env = str(getattr(sys, "_base_executable")), {"PYTHONUSERBASE": str(folder / "user")}  # noqa: B009
    options = ["--user", "--no-deps", "--break-system-packages", "--no-warn-script-location"]
    run([*PIP, "--python", python, "install", *options, str(wheel)], folder, **env)
    site = next((folder / "user" / "lib").glob("python*/site-packages"))
    (site / "libraries.pth").write_text(f"{LIBRARIES}\n")
    return Installed(site, [python, "-m", "tfcli"], env, folder / "elsewhere")


@pytest.fixture(params=[in_a_venv, by_target, by_user], ids=["venv", "target", "user"])
def installed(request: pytest.FixtureRequest, tmp_path: Path, built: Built) -> Installed:
    (tmp_path / "elsewhere").mkdir()
    found: Installed = request.param(tmp_path, built.wheel)
    return found


def test_installed_tfcli_finds_its_recipes(installed: Installed) -> None:
    listed = {item["name"]: item for item in installed.json("recipe", "list")["recipes"]}
    assert listed.keys() == {path.stem for path in (ROOT / "recipes").glob("*.toml")}
    assert listed["smoke"]["description"]
    assert all(Path(item["path"]).is_relative_to(installed.root) for item in listed.values())
    checked = installed.json("recipe", "check", "smoke")["recipes"]
    assert [item["ok"] for item in checked] == [True]


@pytest.mark.slow
def test_an_installed_tfcli_runs_all_stages_and_loads_the_checkpoint(built: Built, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    installed = in_a_venv(tmp_path, built.wheel)
    done = installed.json("run", "smoke", "--device", "cpu")
    assert [stage["state"] for stage in done["stages"]] == ["missing"] * 7
    code = """
from tfcli import End, Picture, load
events = list(load("work/smoke/checkpoint").generate(["a red circle"], draw=True, sampler={"kind": "ddim", "steps": 2}))
assert isinstance(events[-1], End)
print([event.image.size for event in events if isinstance(event, Picture)])
"""
    python = str(tmp_path / "venv" / "bin" / "python")
    assert run([python, "-c", code], installed.elsewhere) == "[(32, 32)]\n"


def test_an_installed_tfcli_knows_its_commit(built: Built, tmp_path: Path) -> None:
    """Also where site-packages lie inside another repository, as a venv in the folder of a project does."""
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "of the user")
    (tmp_path / "elsewhere").mkdir()
    told = by_target(tmp_path, built.wheel).call("--version").splitlines()
    assert told[0] == f"tfcli {VERSION}, commit {built.commit}"
    assert [line.split()[0] for line in told] == ["tfcli", "Python", "torch", "device"]


def test_an_sdist_carries_the_commit_into_its_wheel(built: Built, tmp_path: Path) -> None:
    code = "from setuptools import build_meta; print(build_meta.build_sdist('made'))"
    name = run([sys.executable, "-c", code], built.tree).splitlines()[-1]
    shutil.unpack_archive(built.tree / "made" / name, tmp_path, filter="data")
    wheel = build(tmp_path / name.removesuffix(".tar.gz"))
    assert zipfile.ZipFile(wheel).read("tfcli/COMMIT").decode() == built.commit
    assert set(zipfile.ZipFile(wheel).namelist()) == set(zipfile.ZipFile(built.wheel).namelist())


def test_the_wheel_has_the_packages_and_nothing_of_an_earlier_build(built: Built) -> None:
    names = set(zipfile.ZipFile(built.wheel).namelist())
    tracked = {
        path.relative_to(ROOT).as_posix() for part in ("tfcli", "stages") for path in ROOT.glob(f"{part}/**/*.py")
    }
    assert {name for name in names if name.endswith(".py")} == tracked
    assert {"tfcli/py.typed", "stages/py.typed", "tfcli/recipes/smoke.toml"} <= names


def test_the_registry_shows_no_link_into_the_repository(built: Built) -> None:
    archive = zipfile.ZipFile(built.wheel)
    name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
    told = Parser().parsestr(archive.read(name).decode())
    assert told["License-Expression"] == "MIT"
    assert told["Description-Content-Type"] == "text/markdown"
    readme, text = (built.tree / "README.md").read_text(), str(told.get_payload())
    inside = [link for link in re.findall(r"\]\(([^)]*)\)", readme) if "//" not in link and not link.startswith("#")]
    assert "docs/planted.md" in inside
    assert not [link for link in inside if f"]({link})" in text]
    assert "see the plan" in text
    assert "](https://arxiv.org" in text


def test_links_are_absolute_where_the_repository_has_an_address(tmp_path: Path) -> None:
    tree = copy_of_the_tree(tmp_path / "tree")
    project = (tree / "pyproject.toml").read_text()
    (tree / "pyproject.toml").write_text(
        project.replace("[project.urls]\n", '[project.urls]\nRepository = "https://example.org/a/tfcli/"\n')
    )
    (tree / "README.md").write_text("# x\n![p](a/b.png) [d](docs/x.md#y) [s](#z) [w](https://w) [m](mailto:a@b)\n")
    code = "import setuptools; setuptools.setup = lambda **_: None; import setup; print(setup.registry_readme())"
    assert run([sys.executable, "-c", code], tree).splitlines()[1] == (
        "![p](https://example.org/a/tfcli/raw/HEAD/a/b.png) [d](https://example.org/a/tfcli/blob/HEAD/docs/x.md#y) "
        "[s](#z) [w](https://w) [m](mailto:a@b)"
    )


def test_what_pyproject_says_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["urls"]
    assert "Typing :: Typed" in project["classifiers"]
    lowest = project["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {lowest}" in project["classifiers"]
