"""The commit that `tfcli --version` names is that of the code which runs, or none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stages.core.version import UNKNOWN, commit, default_device, package_version, version_lines


def git(folder: Path, *command: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", "-C", str(folder), *who, *command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a package in it; returns its root."""
    root = tmp_path / "repository"
    (root / "tfcli").mkdir(parents=True)
    (root / "setup.py").write_text("")
    (root / "tfcli" / "__init__.py").write_text("")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "all")
    return root


def test_a_checkout_is_asked(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "--short=12", "HEAD")
    git(checkout, "tag", "-a", "v9", "-m", "v9")  # a tag must not hide the commit
    assert commit(checkout / "tfcli") == head
    (checkout / "tfcli" / "__init__.py").write_text("changed")
    assert commit(checkout / "tfcli") == f"{head}-dirty"
    git(checkout, "commit", "-q", "-a", "-m", "more")
    assert commit(checkout / "tfcli") not in (head, f"{head}-dirty", UNKNOWN)


def test_a_git_hook_of_another_repository_does_not_mislead(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    git(other, "commit", "-q", "--allow-empty", "-m", "other")
    expected = git(checkout, "rev-parse", "--short=12", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert commit(checkout / "tfcli") == expected


def test_an_installed_package_is_not_part_of_the_repository_around_it(checkout: Path) -> None:
    package = checkout / "venv" / "site-packages" / "tfcli"
    package.mkdir(parents=True)
    assert commit(package) == UNKNOWN
    (package / "COMMIT").write_text("0123456789ab-dirty\n")
    assert commit(package) == "0123456789ab-dirty"


def test_without_git_the_commit_is_unknown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert commit(checkout / "tfcli") == UNKNOWN


def test_a_torch_that_does_not_load_hides_no_other_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert default_device().startswith("unknown: torch cannot be used: ModuleNotFoundError")
    lines = version_lines()
    assert lines[0].startswith("tfcli ")
    assert lines[2] == f"torch {package_version('torch')}"
    assert package_version("no-such-package") is None
