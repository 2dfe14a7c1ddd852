"""The code blocks of the documents, and the changes that the pages on adding a part make to a copy of the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page; language as the page gives it."""

    page: Path
    language: str
    text: str


def blocks(page: Path, language: str) -> list[Block]:
    """The blocks of one language in a page, in order."""
    return [Block(page, *found.groups()) for found in _FENCE.finditer(page.read_text()) if found[1] == language]


def apply_page(page: Path, repository: Path) -> None:
    """Make the changes of a page: a python block that begins with `# stages/...py` is a new file; a diff block that begins with
    `--- stages/...py` replaces the text of its old lines, which must be in the file once."""
    for block in blocks(page, "python"):
        first, text = block.text.split("\n", 1)
        if first.startswith("# stages/"):
            assert not (repository / first[2:]).exists(), first
            (repository / first[2:]).write_text(text)
    for block in blocks(page, "diff"):
        first, *lines = block.text.splitlines()
        path = repository / first.removeprefix("--- ")
        old = "\n".join(line[1:] for line in lines if not line.startswith("+"))
        new = "\n".join(line[1:] for line in lines if not line.startswith("-"))
        before = path.read_text()
        assert before.count(old) == 1, f"{page.name}: these lines are in {path.name} {before.count(old)} times:\n{old}"
        path.write_text(before.replace(old, new))
