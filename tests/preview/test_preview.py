"""Rows and cards: spans tile a row and spell its documents; cards show the right pictures; pages hold user text as text."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from stages.artifacts.latents import Latents
from stages.artifacts.sequences import Sequences
from stages.coders.pixels import encode_png
from stages.core.errors import ExitCode, TfcliError
from stages.pack_sequences.config import PackConfig
from stages.preview.cards import Card, CardNote, card_caption, cards_of, decode_rows, pictures_of_cards
from stages.preview.page import cards_page
from stages.preview.rows import PackedDocument, read_rows
from tests.builders import Story, make_all, make_autoencoder, make_latents

TEXTS = [f"picture number {number} <eos> \u00e9\u732b" for number in range(12)]
LONG = " ".join(f"word {number}" for number in range(90))
STORIES = [
    *[Story((text, None)) for text in TEXTS],
    Story(("first ", None, " then ", None, " end"), fixed_order=True),
    Story((None, "lost"), bad=True),
    Story(("text alone",)),
    Story((LONG,)),  # cut into pieces, most of which have no bos or no eos
]
CONFIG = PackConfig(row_length=96, patch_side=2, condition_dropout=0.0, heldout_fraction=0.2, passes=2)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    return Sequences.open(make_all(tmp_path_factory.mktemp("work"), STORIES, CONFIG))


def spelt(document: PackedDocument) -> str:
    return "".join("#" if span.image else span.text for span in document.spans)


def test_spans_tile_every_row_and_spell_every_document(sequences: Sequences) -> None:
    wanted = [{"#" + "".join(part for part in story.parts if part)} for story in STORIES[:12]]
    for number, text in enumerate(TEXTS):
        wanted[number].add(text + "#")
    wanted += [{"first # then # end"}, set(), {"text alone"}]
    unused = 0
    seen, ends = set(), set()
    for side, rows in (("train", sequences.content.num_rows), ("heldout", sequences.content.heldout_rows)):
        for row in read_rows(sequences, side, range(rows)):  # type: ignore[arg-type]
            place = 0
            for document in row.documents:
                assert document.start == place
                for span in document.spans:
                    assert span.start == place
                    place += span.length
                assert document.key == f"d{document.index}"
                seen.add(document.index)
                if document.index == 15:
                    assert spelt(document) in LONG
                    ends.add(document.spans[-1].kind)
                    continue
                assert (document.spans[0].kind, document.spans[-1].kind) == ("bos", "eos")
                assert spelt(document) in wanted[document.index]
                for before, span, after in zip(document.spans, document.spans[1:], document.spans[2:], strict=False):
                    if span.image is not None:
                        assert (before.kind, after.kind) == ("boi", "eoi")
                        assert span.length == span.image.patches_high * span.image.patches_wide == 4
                        assert span.image.name == str(document.index)
            assert place + row.unused == row.length == CONFIG.row_length
            unused += row.unused
    assert seen == {*range(13), 14, 15}
    assert ends == {"text", "eos"}
    assert unused > 0


def test_a_row_that_is_not_there(sequences: Sequences) -> None:
    for row in (-1, sequences.content.num_rows):
        with pytest.raises(TfcliError) as caught:
            read_rows(sequences, "train", range(row, row + 1))
        assert caught.value.code == ExitCode.USAGE
        assert f"0 to {sequences.content.num_rows - 1}" in caught.value.why
        assert f"row {row}" in caught.value.what


@pytest.fixture
def latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Latents:
    """Random latents that an untrained autoencoder decodes to 16 px."""
    autoencoder = make_autoencoder(tmp_path / "autoencoder")
    monkeypatch.setattr(Latents, "autoencoder_folder", lambda _self: autoencoder)
    return Latents.open(make_latents(tmp_path / "latents", STORIES, channels=4, side=8))


def test_cards_show_documents_in_order_with_their_own_pictures(latents: Latents) -> None:
    cards = cards_of(latents.folder, "latents", count=100, side="train", device="cpu")
    assert [card.title for card in cards] == [f"d{number}" for number in range(14)]
    assert card_caption(cards[3]) == TEXTS[3]
    kinds = ["text" if isinstance(part, str) else "picture" for part in cards[12].parts]
    assert kinds == ["text", "picture", "text", "picture", "text"]
    assert isinstance(cards[13].parts[0], CardNote)
    alone = decode_rows(latents, {(0, 3)}, "cpu")[0, 3]
    shown = pictures_of_cards([cards[3]])[0]
    assert shown.shape == (16, 16, 3)
    assert np.abs(shown.astype(int) - alone.astype(int)).max() <= 1
    assert np.abs(pictures_of_cards([cards[4]])[0].astype(int) - alone.astype(int)).max() > 1


def test_fewer_cards_are_spread_over_the_source(latents: Latents) -> None:
    cards = cards_of(latents.folder, "latents", count=3, side="train", device="cpu")
    assert [card.title for card in cards] == ["d0", "d4", "d9"]


def test_latents_are_shown_with_the_originals_where_these_were_kept(latents: Latents) -> None:
    """check.png of encoding holds originals: the cards themselves can show only what the latents give back."""
    before = len(cards_of(latents.folder, "latents", count=3, side="train", device="cpu"))
    (latents.folder / "check.png").write_bytes(encode_png(np.zeros((32, 64, 3), np.uint8)))
    cards = cards_of(latents.folder, "latents", count=3, side="train", device="cpu")
    assert len(cards) == before + 1
    assert "as they were" in cards[0].title
    assert [card.is_sheet for card in cards] == [True] + before * [False]  # it is no document
    assert pictures_of_cards(cards[:1])[0].shape == (32, 64, 3)


class Reader(HTMLParser):
    """Tags and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        assert all((value or "").startswith("data:image/png;base64,") for name, value in attrs if name == "src")

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_page_holds_hostile_text_as_text() -> None:
    evil = "</p><script>alert(1)</script>' onload='x' \u202e\x1b[31m\x00\udcff \u732b"
    pixels = np.zeros((8, 16, 3), np.uint8)
    page = cards_page(evil, evil, [Card(evil, (evil, pixels, CardNote(evil)), given=1), Card("", ())])
    reader = Reader()
    reader.feed(page)
    assert "script" not in reader.tags
    assert reader.words.count("<script>alert(1)</script>' onload='x' \\u202e\\x1b[31m\\x00\\udcff \u732b") == 6
    assert reader.tags.count("img") == 1
    assert not set(page) & {"\u202e", "\x1b", "\x00"}
    page.encode("utf-8")
