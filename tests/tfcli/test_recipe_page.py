"""docs/recipe.md is what the sections say, its links lead somewhere, and its sizes are those of the paper."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from stages.recipe import load_recipe
from stages.recipe_keys import Key, all_sections
from tfcli.recipe_page import SIZES, num_weights, recipe_page, row, slug

ROOT = Path(__file__).parents[2]

# Zhou et al. 2024: layers, width and heads of table 2, and the percent of weights that table 7 has for each codec.
PAPER = {
    "0.16b": (16, 768, 12, 0.5, 106.1),
    "0.37b": (24, 1024, 16, 0.4, 71.3),
    "0.76b": (24, 1536, 24, 0.4, 35.5),
    "1.4b": (24, 2048, 16, 0.4, 19.3),
    "7b": (32, 4096, 32, 0.3, 3.8),
}


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(ROOT)
    return recipe_page()


def test_the_page_is_up_to_date(page: str) -> None:
    assert (ROOT / "docs" / "recipe.md").read_text() == page, "run 'make recipe-docs'"


def test_the_command_writes_it(page: str, tmp_path: Path) -> None:
    target = tmp_path / "docs" / "recipe.md"
    subprocess.run([sys.executable, "-m", "tfcli.recipe_page", str(target)], cwd=ROOT, check=True)
    assert target.read_text() == page


def test_every_key_is_on_it_once_for_each_kind(page: str) -> None:
    """But for `kind` itself, of which each section has a table."""
    wanted = Counter(key.name for section in all_sections() for key in section.keys)
    found = Counter(re.findall(r"^\| \[?`([a-z0-9_.]+)`(?:\]\([^)]*\))? \|", page, re.MULTILINE))
    kinds = {name for name in wanted if name.endswith(".kind")}
    assert len(kinds) > 8
    assert found - Counter({"kind": found["kind"]}) == Counter({k: n for k, n in wanted.items() if k not in kinds})
    defaults = [key.default for section in all_sections() for key in section.keys if isinstance(key.default, dict)]
    assert page.count("(default) |") == sum("kind" in default for default in defaults) > 7
    for section in all_sections():
        assert f'| `"{section.kind}"`' in page or not section.kind


def test_its_links_lead_to_its_headings(page: str) -> None:
    headings = {slug(line.lstrip("#")) for line in page.splitlines() if re.match(r"#+ ", line)}
    links = re.findall(r"\]\(#([^)]+)\)", page)
    assert len(links) > 30
    assert set(links) <= headings


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Keys at the top", "keys-at-the-top"),
        ("[images.policy]", "imagespolicy"),
        ('[source] of kind "shapes-edits"', "source-of-kind-shapes-edits"),
    ],
)
def test_anchors_are_those_of_github_and_mkdocs(heading: str, anchor: str) -> None:
    assert slug(heading) == anchor


def test_its_tables_are_whole(page: str) -> None:
    """A bar that is not escaped would open another column."""
    odd = Key("a.b", "", '"one" | two', "x|y", False, False, "In `[c] | d` and [e] | *f* <g>.")
    assert row(odd) == r'| `a.b` | `"one"` \| two | `"x\|y"` | In `[c] \| d` and \[e\] \| \*f\* \<g>. |'
    columns = 0
    for line in page.splitlines():
        if not line.startswith("|"):
            columns = 0
            continue
        found = len(re.findall(r"(?<!\\)\|", line))
        assert columns in (0, found), line
        columns = found


@pytest.mark.parametrize("size", SIZES)
def test_the_sizes_are_those_of_the_paper(size: str, page: str) -> None:
    layers, width, heads, linear, unet = PAPER[size]
    assert f"| `paper-{size}` | {layers} | {width} | {heads} | {width // heads} |" in page
    hidden = load_recipe(f"paper-{size}").model.feed_forward_width
    block = 4 * width**2 + 3 * width * hidden + 2 * width  # attention, SwiGLU, two norms
    llama = layers * block + width + 2 * 32_000 * width
    assert llama / 1e9 == pytest.approx(float(size.removesuffix("b")), rel=0.05)
    codecs = [100 * (num_weights(load_recipe(f"paper-{size}{kind}")) / llama - 1) for kind in ("", "-unet")]
    assert round(codecs[0], 1) == linear
    assert codecs[1] == pytest.approx(unet, rel=0.1)  # the paper has no list of its blocks
