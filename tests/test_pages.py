"""What holds for every page that the tool writes: colours that are named are defined, and curves are seen in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.artifacts.samples import Part, Record
from stages.preview.cards import ABOUT, Card
from stages.preview.page import cards_page
from stages.sample_model.page import render_page
from stages.train_model.monitor.metrics import MetricsLog
from stages.train_model.monitor.report import Strips, render
from tests.sample_model.browser import PROGRAM, Browser

ROOT = Path(__file__).parents[1]
LOSSES = ("Text loss", "Image loss")


def samples_page(folder: Path) -> str:
    """index.html of 'tfcli sample'."""
    record = Record(
        index=0,
        take=0,
        number=0,
        mode="prompts",
        key=None,
        seed=0,
        checkpoint="0",
        settings={},
        asked={"draw": True},  # type: ignore[arg-type]
        prompt=[Part(text="a cat")],
        output=[Part(text="a text")],
        ended="eos",
    )
    return render_page("samples", "of a test", {"a": "b"}, metrics_log(folder).metrics, {"Yours": [record]})


def report_page(folder: Path) -> str:
    """report.html of 'tfcli train'."""
    return render("training", "of a test", metrics_log(folder), Strips(), {}, [("latents", "/a/b", "0123")])


def cards(folder: Path) -> str:
    """The page of 'tfcli inspect --images'."""
    del folder
    picture = np.zeros((8, 8, 3), np.uint8)
    return cards_page("latents", "of a test", [Card("a", ("words", picture), 1), Card("b", (picture,))])


def test_inspect_says_that_pictures_went_through_the_autoencoder() -> None:
    page = cards_page("latents", "", [Card("a", ("words",))], ABOUT["latents"])
    assert "as the autoencoder gives them back" in page


PAGES = {"index.html": samples_page, "report.html": report_page, "inspect": cards}
CURVES = {name: PAGES[name] for name in ("index.html", "report.html")}


def metrics_log(folder: Path) -> MetricsLog:
    """A log of 400 steps: losses that fall, of training and held-out rows."""
    made = MetricsLog(folder, (), 0)
    for step in range(1, 401):
        made.add_metrics(step, {"text_loss": 3 / step**0.5, "image_loss": 1 / step**0.3, "grad_norm": 1.0})
        if step % 20 == 1:
            losses = {"text_loss": 4 / step**0.5, "image_loss": 2 / step**0.3}
            made.add_metrics(step, losses | {f"image_loss_t{level}": level / step for level in (25, 50)}, "heldout_")
    return made


def test_every_page_of_the_tool_is_in_the_table() -> None:
    """A new page is a new place where a colour can be named that nobody defines."""
    found = [path.name for path in ROOT.glob("stages/**/*.html") if "{% extends" in path.read_text()]
    assert len(found) == len(PAGES)
    others = [path.name for path in ROOT.glob("stages/**/*.py") if "<!doctype html><" in path.read_text()]
    assert not others, "pages are made by stages.pages.html"


@pytest.mark.parametrize("name", PAGES)
def test_every_variable_of_a_page_is_defined_in_it(name: str, tmp_path: Path) -> None:
    page = PAGES[name](tmp_path)
    used = set(re.findall(r"var\(\s*(--[\w-]+)", page))
    assert used
    assert used <= set(re.findall(r"(--[\w-]+)\s*:", page))


@pytest.mark.parametrize("name", CURVES)
def test_both_pages_draw_the_losses_alike(name: str, tmp_path: Path) -> None:
    """One plotter: the figures of the losses are the same text on both pages."""
    figures = re.findall(r"<figure>.*?</figure>", CURVES[name](tmp_path))
    other = re.findall(r"<figure>.*?</figure>", report_page(tmp_path))
    losses = [figure for figure in figures if any(f"<b>{title}" in figure for title in LOSSES)]
    assert len(losses) == 2
    assert set(losses) <= set(other)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile", 1000, 1400) as made:
        yield made


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", CURVES)
def test_curves_are_seen(name: str, scheme: str, tmp_path: Path, browser: Browser) -> None:
    """By pixels: inside the frame of each loss there is a line of the training's colour and one of the held-out rows'."""
    (tmp_path / name).write_text(CURVES[name](tmp_path))
    browser.open(tmp_path / name, scheme)
    browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    boxes = browser.run(
        "[...document.querySelectorAll('figure')].filter(one => one.textContent.match(/^(Text|Image) loss/)).map(one => {"
        " const box = one.querySelector('svg').getBoundingClientRect(); return [box.x, box.y, box.right, box.bottom]; })"
    )
    assert len(boxes) == 2
    browser.shot(tmp_path / "shot.png")
    with Image.open(tmp_path / "shot.png") as shot:
        seen = np.array(shot.convert("RGB")).astype(int)
    for left, top, right, bottom in (map(int, box) for box in boxes):
        assert bottom < len(seen)
        inside = seen[top:bottom, left + 60 : right - 10]  # without the numbers of the axis
        red, blue = inside[..., 0], inside[..., 2]
        columns = [(blue - red > 60).any(0).mean(), (red - blue > 60).any(0).mean()]
        assert min(columns) > 0.8, f"blue and orange in {columns} of the columns"
