"""What pyproject.toml cannot say: recipes/ is installed as tfcli/recipes, a build notes the commit that it was made of, and the
README that a registry shows has no link that leads nowhere there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
COMMIT = "tfcli/COMMIT"  # stages/core/version.py reads it


def commit() -> str:
    """The commit of this checkout, "-dirty" behind it where files were changed; of an unpacked sdist the one noted in it."""
    if (ROOT / COMMIT).is_file():
        return (ROOT / COMMIT).read_text()
    if not (ROOT / ".git").exists():
        return ""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        # without the variables of a hook that runs this, which name another repository
        env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30, env=env).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout of another user: built without it
        return ""


def note_commit(folder: Path) -> None:
    """Write it below the root of what is built."""
    if found := commit():
        (folder / COMMIT).parent.mkdir(parents=True, exist_ok=True)
        (folder / COMMIT).write_text(found)


def registry_readme() -> str:
    """README.md with its links into the repository made absolute, or plain text where the repository has no address yet."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text()).get("project", {}).get("urls", {})
    repository = str(urls.get("Repository", "")).rstrip("/")

    def absolute(found: re.Match[str]) -> str:
        mark, text, target = found.groups()
        if not repository:
            return "" if mark else text
        return f"{mark}[{text}]({repository}/{'raw' if mark else 'blob'}/HEAD/{target})"

    # neither a scheme nor an anchor of the page itself
    return re.sub(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)\s]+)\)", absolute, (ROOT / "README.md").read_text())


class BuildWithCommit(build_py):
    """The files of a wheel. An editable install has none of its own: there the checkout is asked at run time."""

    def run(self) -> None:
        if Path(self.build_lib).resolve() == ROOT / "build" / "lib":
            shutil.rmtree(self.build_lib, ignore_errors=True)  # a module that was moved would be shipped at both places
        super().run()
        if not self.editable_mode:
            note_commit(Path(self.build_lib))


class SdistWithCommit(sdist):
    """The files of an sdist."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        note_commit(Path(base_dir))


setup(
    long_description=registry_readme(),
    long_description_content_type="text/markdown",
    packages=[*find_packages(include=["tfcli*", "stages*"]), "tfcli.recipes"],
    package_dir={"tfcli.recipes": "recipes"},
    package_data={"tfcli.recipes": ["*.toml"], "tfcli": ["py.typed"], "stages": ["py.typed", "**/*.html"]},
    cmdclass={"build_py": BuildWithCommit, "sdist": SdistWithCommit},
)
