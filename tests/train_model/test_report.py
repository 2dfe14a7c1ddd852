"""The page of a training: whole, self-contained, escaped, and drawn from the logs as they are."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from stages.coders.pixels import encode_png
from stages.core.files import write_json
from stages.diffusion.config import DiffusionConfig
from stages.model.config import ModelConfig
from stages.train_model.monitor.metrics import MetricsLog
from stages.train_model.monitor.report import Strips, ancestors_of, previews, render
from tests.builders import Story, make_latents, make_tokens


def metrics_log(folder: Path, steps: int = 40) -> MetricsLog:
    made = MetricsLog(folder, (), 0)
    for step in range(1, steps):
        made.add_metrics(step, {"text_loss": 3 / step, "image_loss": 1 / step, "grad_norm": 1.0, "learning_rate": 1e-3})
        made.add_timing(
            step, {"elements_per_second": 100.0, "places_per_second": 110.0, "mfu": 0.5, "memory_bytes": 1e9}
        )
        if step % 10 == 1:
            levels = {f"image_loss_t{level}": level / 100 for level in (25, 50, 75, 100)}
            made.add_metrics(step, {"text_loss": 4 / step, **levels}, "heldout_")
    return made


class Tags(HTMLParser):
    """Open tags that were not closed, and all attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(tmp_path: Path) -> None:
    settings = {"model": ModelConfig(), "diffusion": DiffusionConfig()}
    page = render("T <i>", "step 3 & more", metrics_log(tmp_path), Strips(), settings, [("latents", "/a/<b>", "0123")])
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert page.count("<svg") == 8  # text, image, levels, norm, rate, speed, MFU, memory
    assert "t 25 to 50 %" in page
    assert "T &lt;i&gt;" in page
    assert "/a/&lt;b&gt;" in page
    assert "image_attention" in page
    assert not re.search(r"<script|https?:|src=.(?!data:)|url\(|@import", page)


def test_a_page_without_figures_says_so(tmp_path: Path) -> None:
    assert "no figures yet" in render("t", "", MetricsLog(tmp_path, (), 0), Strips(), {}, [])


def test_previews_are_embedded_below_their_captions(tmp_path: Path) -> None:
    assert previews(tmp_path) == Strips()
    folder = tmp_path / "previews"
    folder.mkdir()
    write_json(folder / "captions.json", ["a <b>red</b> circle", "two"])
    picture = encode_png(np.zeros((4, 8, 3), np.uint8))
    (folder / "truth.png").write_bytes(picture)
    for step in range(100, 3100, 100):
        (folder / f"step-{step:08d}.png").write_bytes(picture)
    made = render("t", "", MetricsLog(tmp_path, (), 0), previews(tmp_path), {}, [])
    assert made.count("data:image/png;base64,") == 13
    assert "a &lt;b&gt;red" in made
    steps = [int(text.replace(",", "")) for text in re.findall(r"<span>step ([\d,]+)</span>", made)]
    assert steps == sorted(set(steps))
    assert len(steps) == 12
    assert steps[-1] == 3000


def test_lineage_follows_the_inputs_and_stops_where_they_changed(tmp_path: Path) -> None:
    from stages.artifacts.manifest import input_entry, open_artifact

    latents = make_latents(tmp_path / "latents", [Story(("some words of a text", None))] * 12)
    tokens = make_tokens(tmp_path / "tokens", latents)
    entries = {"tokens": input_entry(tokens, tmp_path / "checkpoint", open_artifact(tokens, "tokens"))}
    found = ancestors_of(entries, tmp_path / "checkpoint")
    assert [(kind, Path(place)) for kind, place, _ in found] == [("tokens", tokens), ("latents", latents)]
    changed = {"tokens": entries["tokens"].model_copy(update={"digest": "f" * 64})}
    assert ancestors_of(changed, tmp_path / "checkpoint") == [("tokens", str(tokens), "f" * 12)]
