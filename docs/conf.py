"""Sphinx: the site of docs/, built by `make docs`. Every warning is an error, and so is a public name without a docstring."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "tfcli"
author = "the tfcli authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["requirements.txt"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "tfcli"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {
    "light_css_variables": {"font-stack": "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"}
}
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
pygments_style = "friendly"
autodoc_default_options = {"exclude-members": "model_config"}
autodoc_member_order = "bysource"
add_module_names = False
default_role = "code"
smartquotes = False  # --work stays --work

# Modules of which docs/api.md shows every public name, next to those of `from tfcli import ...`.
COMPLETE = (
    "stages.sources.document",
    "stages.diffusion.schedules",
    "stages.diffusion.samplers",
    "stages.model.patches",
    "stages.model.attention",
    "stages.train_model.trackers",
    "stages.artifacts.latents",
)
_SECTION = re.compile(r"(Args|Returns|Raises|Yields|Example|Examples):$")


def _paragraph(lines: list[str]) -> list[str]:
    """A paragraph of a docstring as reStructuredText: tables of aligned words and indented lines stay as they are written."""
    if any(_SECTION.match(line.strip()) for line in lines):
        return lines
    if any(line.startswith(" ") or re.search(r"\S {3,}\S", line) for line in lines):
        return [".. code-block:: text", "", *(f"    {line}" for line in lines)]
    pieces = re.split(r"(`[^`]*`)", "\n".join(lines))
    text = "".join(f"`{piece}`" if piece.startswith("`") else re.sub(r"([*_|\\])", r"\\\1", piece) for piece in pieces)
    return text.split("\n")


def plain_docstring(_app: Sphinx, _what: str, _name: str, _value: Any, _options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code`: no character of them is markup."""
    paragraphs, new = re.split(r"\n\s*\n", "\n".join(lines).strip("\n")), []
    for paragraph in paragraphs:
        new += [*_paragraph(paragraph.split("\n")), ""]
    lines[:] = new


def public_names(module_name: str) -> list[str]:
    """The public functions, classes and methods that a module defines."""
    module, names = importlib.import_module(module_name), []
    for name, value in vars(module).items():
        alias = getattr(value, "__name__", name) != name
        if name.startswith("_") or alias or getattr(value, "__module__", "") != module_name:
            continue
        if inspect.isfunction(value):
            names.append(f"{module_name}.{name}")
        elif inspect.isclass(value):
            names.append(f"{module_name}.{name}")
            for method, held in vars(value).items():
                if not method.startswith("_") and isinstance(
                    held, property | classmethod | staticmethod
                ) | inspect.isfunction(held):
                    names.append(f"{module_name}.{name}.{method}")
    return names


def check_names(_app: Sphinx, environment: BuildEnvironment) -> None:
    """Warn, which fails the build, of each public name that docs/api.md does not show."""
    shown = environment.domaindata["py"]["objects"]
    interface = [f"tfcli.{name}" for name in importlib.import_module("tfcli").__all__]
    for name in [*interface, *(name for module in COMPLETE for name in public_names(module))]:
        if name not in shown:
            logging.getLogger(__name__).warning("no docstring, or not in docs/api.md: %s", name)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", plain_docstring, priority=100)
    app.connect("env-check-consistency", check_names)
