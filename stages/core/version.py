"""Which code this is and what it runs on: the version of tfcli with its commit, Python, torch, the device."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata, resources
from pathlib import Path

from stages.core.reading import read_bounded

UNKNOWN = "unknown"
COMMIT = "COMMIT"  # written into the package by a build: setup.py
_MAX_BYTES = 200
_GIT_SECONDS = 10


def package_version(name: str) -> str | None:
    """The installed version of a distribution; None where it is not installed. Imports nothing of it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def commit(package: Path | None = None) -> str:
    """The commit of the code: of its checkout, with "-dirty" behind it where files were changed since, or as the build noted
    it; "unknown" where neither says. package: the folder of the package tfcli."""
    package = package or Path(str(resources.files("tfcli")))
    checkout = package.parent
    # not any repository around: site-packages may be inside one of the user's
    if (checkout / "setup.py").is_file() and (checkout / ".git").exists():
        return _described(checkout) or UNKNOWN
    try:
        return read_bounded(package / COMMIT, _MAX_BYTES).decode("ascii", "replace").strip() or UNKNOWN
    except OSError:
        return UNKNOWN


def _described(checkout: Path) -> str:
    """What git calls the commit; empty where there is no git, or it refuses to look into a checkout of another user."""
    # a hook's GIT_DIR would lead elsewhere; looking must not write into .git
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=_GIT_SECONDS,
            env={**own, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def default_device() -> str:
    """What --device auto means here: "cpu" or "cuda (NVIDIA H100 80GB HBM3)". Imports torch, and says why where it cannot."""
    try:
        import torch

        if not torch.cuda.is_available():
            return "cpu"
        return f"cuda ({torch.cuda.get_device_name()})"
    except (ImportError, OSError, RuntimeError) as error:  # libraries that do not load must not hide the other versions
        return f"{UNKNOWN}: torch cannot be used: {type(error).__name__}: {error}"


def version_lines() -> list[str]:
    """What `tfcli --version` prints, a line each."""
    return [
        f"tfcli {package_version('tfcli') or '(source tree, not installed)'}, commit {commit()}",
        f"Python {platform.python_version()}",
        f"torch {package_version('torch') or 'not installed'}",
        f"device {default_device()}",
    ]
