"""The random draws of packing: orders, dropped captions and mirrored pictures belong to a pass, a copy, a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.artifacts.sequences import RowTable, Sequences
from stages.artifacts.tables import DocumentTable, ImageTable
from stages.pack_sequences.config import PackConfig
from tests.builders import Story, make_all, make_latents, make_sequences, make_tokens

PAIRS = [Story((f"picture {number}", None)) for number in range(400)]


def packed(work: Path, stories: list[Story] = PAIRS, **options: float | dict[str, float]) -> Sequences:
    return Sequences.open(make_all(work, stories, PackConfig(row_length=64, **options)))  # type: ignore[arg-type]


def image_first(table: RowTable) -> dict[int, list[bool]]:
    """Of each document: whether it begins with its image, each time that it comes."""
    found: dict[int, list[bool]] = {}
    documents = DocumentTable(table.documents)
    for document, first in zip(documents.document.tolist(), documents.image_first.tolist(), strict=True):
        found.setdefault(document, []).append(bool(first))
    return found


def test_only_a_caption_before_its_image_is_dropped(tmp_path: Path) -> None:
    """One after its image is what the model learns to describe pictures from. The orders are those of packing without drops."""
    plain = packed(tmp_path / "a", caption_first=0.5, condition_dropout=0, heldout_fraction=0).split("train")
    table = packed(tmp_path / "b", caption_first=0.5, condition_dropout=0.4, heldout_fraction=0).split("train")
    documents, before = DocumentTable(table.documents), image_first(plain)
    dropped = set(documents.document[documents.caption_dropped == 1].tolist())
    caption_first = {document for document, (first,) in before.items() if not first}
    assert dropped < caption_first
    assert len(dropped) / len(caption_first) == pytest.approx(0.4, abs=0.1)
    with_text = {document for document, first in image_first(table).items() if first == before[document]}
    assert with_text == set(range(400)) - dropped


def test_the_heldout_side_keeps_all_text(tmp_path: Path) -> None:
    sequences = packed(tmp_path, condition_dropout=0.9, heldout_fraction=0.5)
    heldout, train = (sequences.split(side) for side in ("heldout", "train"))
    shortest = 2 + 2 + 4  # BOS, BOI, four patches, EOI, EOS
    assert (DocumentTable(heldout.documents).length > shortest).all()
    assert not DocumentTable(heldout.documents).caption_dropped.any()
    assert (DocumentTable(train.documents).length == shortest).mean() > 0.5


@pytest.mark.parametrize(("passes", "weight"), [(4, 1.0), (1, 4.0)], ids=["passes", "copies"])
def test_the_order_is_drawn_for_each_pass_and_each_copy(tmp_path: Path, passes: int, weight: float) -> None:
    """Of four fair draws all are alike for an eighth of the documents, not for half of them or for all."""
    options = {"caption_first": 0.5, "condition_dropout": 0, "heldout_fraction": 0}
    sequences = packed(tmp_path, passes=passes, weights={"pictures": weight}, **options)
    orders = image_first(sequences.split("train"))
    assert {len(each) for each in orders.values()} == {4}
    assert np.mean([len(set(each)) == 1 for each in orders.values()]) == pytest.approx(0.125, abs=0.06)
    assert np.mean(list(orders.values())) == pytest.approx(0.5, abs=0.06)


def test_order_and_drop_of_a_document_are_independent(tmp_path: Path) -> None:
    """With one draw for both, a share of 0.3 below the share of captions first would drop more of them, or none."""
    for caption_first in (0.35, 0.9):
        options = {"caption_first": caption_first, "condition_dropout": 0.3, "heldout_fraction": 0}
        table = packed(tmp_path / f"{caption_first}", **options, passes=2).split("train")
        documents = DocumentTable(table.documents)
        caption_was_first = (documents.image_first == 0) | (documents.caption_dropped == 1)
        share = (documents.caption_dropped == 1).sum() / caption_was_first.sum()
        assert share == pytest.approx(0.3, abs=0.08)


def test_images_of_a_document_are_mirrored_one_by_one(tmp_path: Path) -> None:
    stories = [Story((f"two {number}", None, "and", None), fixed_order=True) for number in range(200)]
    latents = make_latents(tmp_path / "latents", stories, mirror=True)
    tokens = make_tokens(tmp_path / "tokens", latents)
    config = PackConfig(row_length=64, heldout_fraction=0)
    table = Sequences.open(make_sequences(tmp_path / "sequences", tokens, latents, config)).split("train")
    images = ImageTable(table.images)
    grids = {int(entry): images.grid[images.entry == entry].tolist() for entry in np.unique(images.entry)}
    assert {len(each) for each in grids.values()} == {2}
    assert np.mean([first != second for first, second in grids.values()]) == pytest.approx(0.5, abs=0.12)


def test_where_a_document_is_says_nothing_of_its_order(tmp_path: Path) -> None:
    """The held-out losses are those of the first rows: they would be of one order alone if one draw were behind both."""
    sequences = packed(tmp_path, caption_first=0.5, condition_dropout=0, heldout_fraction=0.5)
    for side in ("heldout", "train"):
        documents = DocumentTable(sequences.split(side).documents)
        early = documents.row < documents.row.max() / 2
        assert min(early.sum(), (~early).sum()) > 60
        for part in (early, ~early):
            assert documents.image_first[part].mean() == pytest.approx(0.5, abs=0.15)
