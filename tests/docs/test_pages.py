"""Links of the documents lead somewhere, and files, commands and recipes that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT

ALL = [*PAGES, *sorted(ROOT.glob("[A-Z]*.md")), ROOT / "stages" / "README.md", ROOT / "recipes" / "README.md"]
ALL = list(dict.fromkeys(ALL))
# Where short paths of a page begin, next to the root of the repository.
BASES = {"paper.md": ("stages", "tests"), "README.md": ("stages", "recipes"), "errors.md": ("tests",)}
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\s]+)`")


def text_of(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub and the site name them."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page: Path) -> None:
    wrong = []
    for target in _LINK.findall(text_of(page)):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        path = page if not name else page.parent / name
        if not path.exists() or (anchor and anchor not in anchors(path)):
            wrong.append(target)
    assert not wrong


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_files_that_pages_name_exist(page: Path) -> None:
    """Code words that look like a path of the repository: with a folder of it in front, or a Python file."""
    wrong = []
    for word in _CODE.findall(text_of(page)):
        path = word.rstrip("/").partition("::")[0]
        ours = path.startswith(("stages/", "tests/", "tfcli/", "docs/", "recipes/", "examples/"))
        if not (ours or re.fullmatch(r"[\w/]+\.py", path)) or set(path) & set("<>*$"):
            continue
        bases = [ROOT, *(ROOT / base for base in BASES.get(page.name, ()))]
        found = any((base / path).exists() for base in bases)
        # a file alone: below the folder that is named before it, on the same line
        if not found and not list(ROOT.glob(f"stages/**/{path}")) + list(ROOT.glob(f"tests/**/{path}")):
            wrong.append(word)
    assert not wrong


def test_every_page_is_in_the_index() -> None:
    listed = set(re.findall(r"^([a-z_/-]+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE))
    pages = {page.relative_to(ROOT / "docs").with_suffix("").as_posix() for page in PAGES[1:]}
    assert listed == pages - {"index"}


def test_the_site_is_strict_and_stays_out_of_git() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "--fail-on-warning" in makefile
    assert "build/" in (ROOT / ".gitignore").read_text().splitlines()


def test_recipes_and_sources_that_pages_name_exist() -> None:
    from pydantic import TypeAdapter

    from stages.sources.mix import SourceConfig

    kinds = set(TypeAdapter(SourceConfig).json_schema()["discriminator"]["mapping"])
    table = text_of(ROOT / "docs" / "data.md").split("| `source.kind`", 1)[1].split("\n\n", 1)[0]
    named = {kind for row in table.splitlines()[2:] for kind in _CODE.findall(row.split("|")[1])}
    assert named == kinds
