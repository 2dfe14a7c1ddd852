"""The page of samples: documents in reading order, hostile text as text, no script but ours."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

from stages.artifacts.samples import Part, Record
from stages.sample_model.page import render_page

EVIL = "</p><script>alert(1)</script><img src=x onerror='x'>\" \u202e\x1b[31m\x00 \u732b"


def record(prompt: list[Part], output: list[Part], **facts: Any) -> Record:
    basis: dict[str, Any] = {"index": 0, "take": 0, "mode": "prompts", "key": None, "seed": 0, "checkpoint": "00"}
    basis |= {"number": 0, "asked": {"draw": True}}
    return Record(
        **{**basis, "settings": {}, "ended": "eos", **facts},
        prompt=prompt,
        output=output,
    )


def picture(name: str, side: int = 32) -> Part:
    return Part(image=f"images/{name}.png", size=(side, side))


class Reader(HTMLParser):
    """What is on a page: tags, words, pictures with their alternative texts, all in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.flow: list[str] = []
        self.alts: dict[str, str] = {}
        self.sizes: list[tuple[str | None, str | None]] = []
        self._inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        assert not any(name.startswith("on") for name in found)
        if tag == "div" and found.get("class") in ("given", "made"):
            self.flow.append(f"<{found['class']}>")
        if tag == "img" and "src" in found:
            self.flow.append(str(found["src"]))
            self.alts[str(found["src"])] = str(found["alt"])
            self.sizes.append((found["width"], found["height"]))
        if tag not in ("img", "meta"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._inside and self._inside[-1] == "p" and "article" in self._inside:
            self.flow.append(data)


def test_documents_are_in_reading_order_and_what_was_given_is_apart() -> None:
    mixed = record(
        [Part(text="first a "), picture("p0"), Part(text=" then: ")],
        [picture("d0"), Part(text=" and then "), picture("d1")],
    )
    reader = Reader(render_page("t", "s", {}, [], {"Yours": [mixed]}))
    assert reader.flow == [
        "<given>",
        "first a",
        "images/p0.png",
        "then:",
        "<made>",
        "images/d0.png",
        "and then",
        "images/d1.png",
    ]
    assert reader.alts["images/p0.png"] == "given picture"
    assert reader.alts["images/d1.png"] == "drawn for: first a  then:"
    assert set(reader.sizes) == {("160", "160")}  # five times as large as they are


def test_samples_of_one_prompt_share_a_card() -> None:
    takes = [record([Part(text="a cat")], [picture(f"d{take}")], take=take) for take in range(3)]
    other = record([Part(text="a dog")], [picture("e", 512)], index=1)
    reader = Reader(render_page("t", "s", {}, [], {"Yours": [*takes, other]}))
    assert reader.tags.count("article") == 2
    assert reader.flow.count("<given>") == 2
    assert reader.flow.count("<made>") == 4
    assert reader.alts["images/d2.png"] == "drawn for: a cat, sample 3"
    assert reader.sizes[-1] == ("512", "512")


def test_a_limit_is_said_and_a_drawing_as_asked_is_not() -> None:
    for ended, footer in (
        ("drawn", "prompt 1"),
        ("images", "prompt 1, image limit"),
        ("length", "prompt 1, length limit"),
    ):
        page = render_page("t", "s", {}, [], {"Yours": [record([Part(text="a")], [], ended=ended)]})
        assert f"<footer>{footer}</footer>" in page


def test_hostile_text_stays_text() -> None:
    evil = record([Part(text=EVIL), picture("p")], [Part(text=EVIL), picture("d")], key=EVIL)
    page = render_page(EVIL, EVIL, {EVIL: EVIL}, [], {EVIL: [evil]})
    reader = Reader(page)
    assert reader.tags.count("script") == 1
    assert reader.tags.count("img") == 3  # two, and that of the dialog
    assert not set(page) & {"\u202e", "\x1b", "\x00"}
    assert reader.alts["images/d.png"].startswith("drawn for: </p><script>alert(1)</script>")
    page.encode("utf-8")


def test_the_policy_names_the_script_that_is_there() -> None:
    page = render_page("t", "s", {}, [], {})
    (script,) = re.findall("<script>(.*)</script>", page, re.DOTALL)
    total = b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{total}'" in page
    assert "default-src 'none'" in page
