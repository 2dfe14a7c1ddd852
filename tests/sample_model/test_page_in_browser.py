"""The page of samples in a real browser: shown in both schemes, walked through by keys alone. Runs where Chromium is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stages.artifacts.samples import Part, Record
from stages.coders.pixels import encode_gif, encode_png
from stages.sample_model.page import render_page
from tests.sample_model.browser import PROGRAM, Browser

pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")]
HOSTILE = "</p><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">"
FOCUS = "document.activeElement.getAttribute('href')"
# a dialog is told that it was closed some time after it was
CLOSED = """new Promise(done => {
  const look = () => document.querySelector('dialog img').hasAttribute('src') ? setTimeout(look, 5) : done();
  look();
})"""
CONTRAST = """
(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const colour = text => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = rgb => { const [r, g, b] = rgb.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const ground = light(colour(matchMedia('(prefers-color-scheme: dark)').matches ? '#1b1b1b' : '#f6f6f6').slice(0, 3));
  return [...document.querySelectorAll('p, h2, footer, .given, .made, a.steps')].map(element => {
    const words = light(colour(getComputedStyle(element).color).slice(0, 3));
    return (Math.max(words, ground) + .05) / (Math.min(words, ground) + .05);
  }).reduce((a, b) => Math.min(a, b));
})()
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)

    def picture(name: str, animated: bool = False) -> Part:
        values = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        (folder / f"images/{name}.png").write_bytes(encode_png(values))
        if animated:
            (folder / f"images/{name}.gif").write_bytes(encode_gif([values // 2, values]))
        return Part(image=f"images/{name}.png", size=(32, 32), animation=f"images/{name}.gif" if animated else None)

    def record(index: int, prompt: list[Part], output: list[Part], **more: Any) -> Record:
        basis: dict[str, Any] = {"take": 0, "mode": "prompts", "key": None, "seed": 0, "checkpoint": "0"}
        basis |= {"number": 0, "asked": {"draw": True}}
        return Record(
            index=index,
            prompt=prompt,
            output=output,
            **{**basis, "settings": {}, "ended": "eos", **more},
        )

    records = [
        record(0, [Part(text="a cat")], [picture("p0", animated=True)]),
        record(1, [Part(text=HOSTILE)], [picture("p1"), Part(text=HOSTILE)]),
        record(2, [picture("p2"), Part(text="then")], [Part(text="it goes "), picture("p3")]),
        *(record(3, [Part(text="four")], [picture(f"q{take}")], take=take) for take in range(4)),
    ]
    (folder / "index.html").write_text(render_page("samples", "of a test", {"a": "b"}, [], {"Yours": records}))
    return folder / "index.html"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as made:
        yield made


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_is_shown_and_can_be_read(page: Path, browser: Browser, scheme: str, tmp_path: Path) -> None:
    browser.open(page, scheme)
    loaded = "Promise.all([...document.querySelectorAll('a.picture img')].map(i => (i.loading = 'eager', i.decode())))"
    browser.run(loaded)  # fails where the policy or a path keeps a picture away
    assert browser.run("document.querySelectorAll('a.picture img').length") == 8
    assert browser.run("document.title") == "samples"
    assert browser.run("document.documentElement.scrollWidth <= innerWidth") is True
    assert browser.run(CONTRAST) >= 4.5
    browser.shot(tmp_path / "shot.png")
    with Image.open(tmp_path / "shot.png") as shot:
        corner = np.array(shot.convert("L"))[:5].mean()
    assert corner > 200 if scheme == "light" else corner < 60
    assert browser.problems == []


def test_keys_walk_enlarge_and_close(page: Path, browser: Browser) -> None:
    browser.open(page, "light")
    browser.press("ArrowRight")
    assert browser.run(FOCUS) == "images/p0.png"
    assert "3px" in browser.run("getComputedStyle(document.activeElement).outlineWidth")
    browser.press("ArrowRight")
    assert browser.run(FOCUS) == "images/p1.png"
    browser.press("End")
    assert browser.run(FOCUS) == "images/q3.png"
    browser.press("ArrowRight")  # the last one
    assert browser.run(FOCUS) == "images/q3.png"
    browser.press("ArrowUp")
    above = browser.run(FOCUS)
    assert above.startswith("images/p")
    browser.press("Home")
    browser.press("Enter")
    assert browser.run("document.querySelector('dialog').open") is True
    assert browser.run("document.querySelector('dialog img').getAttribute('src')").endswith("images/p0.png")
    assert browser.run("document.querySelector('dialog p').textContent") == "1 of 8: drawn for: a cat"
    assert browser.run("document.querySelector('dialog img').getBoundingClientRect().width") > 400
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    assert browser.run("document.querySelector('dialog img').getAttribute('src')").endswith("images/p2.png")
    browser.press("Escape")
    assert browser.run("document.querySelector('dialog').open") is False
    browser.run(CLOSED)
    assert browser.run(FOCUS) == "images/p2.png"
    assert browser.problems == []


def test_tab_reaches_everything_and_the_animation_opens(page: Path, browser: Browser) -> None:
    browser.open(page, "dark")
    reached = []
    for _ in range(12):
        browser.press("Tab")
        reached.append(browser.run(f"{FOCUS} || document.activeElement.tagName"))
    for name in ("grid.png", "images/p0.png", "images/p0.gif", "images/q3.png", "SUMMARY"):
        assert name in reached
    browser.run("document.querySelector('a.steps').focus()")
    browser.press("Enter")
    assert browser.run("document.querySelector('dialog img').src").endswith("images/p0.gif")
    assert browser.run("document.querySelector('dialog img').decode().then(() => 1)") == 1
    browser.press("Escape")
    browser.press("ArrowDown")
    assert browser.run("document.querySelector('dialog').open") is False
    assert browser.problems == []


def test_arrows_scroll_the_page_where_no_picture_has_the_focus(page: Path, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", 500, 300) as browser:
        browser.open(page, "light")
        for _ in range(3):
            browser.press("ArrowDown")
        browser.run("new Promise(done => setTimeout(done, 400))")
        assert browser.run("scrollY") > 0
        assert browser.run("document.activeElement.tagName") == "BODY"
        assert browser.run("document.documentElement.scrollWidth <= innerWidth") is True
