"""Sheets with labels: words stand below their own picture, wrapped inside its cell, whatever letters they have."""

from __future__ import annotations

import numpy as np
import pytest

from stages.coders.sheets import compared_sheet, labelled_sheet

GREY = np.full((16, 24, 3), 200, np.uint8)
CELL = 24 * 7  # a picture of 16 pixels is enlarged to 112


def dark_below(sheet: np.ndarray, column: int) -> np.ndarray:
    """Where letters are below the first row's picture of that column."""
    left = 8 + column * (CELL + 8)
    return sheet[8 + 112 :, left : left + CELL].min(-1) < 100


def test_every_label_is_below_its_own_picture_and_inside_its_cell() -> None:
    sheet = labelled_sheet(
        [GREY, GREY, GREY], ["a word", "", "a long label that takes more than one line, " * 3], columns=3
    )
    assert (sheet[8 : 8 + 112, 8 : 8 + CELL] == 200).all()
    first, second, third = (dark_below(sheet, column) for column in range(3))
    assert first.any()
    assert not second.any()
    assert third.sum() > 3 * first.sum()
    assert third[28:].any()  # a second line and more
    gaps = np.concatenate([sheet[:, 8 + CELL : 16 + CELL], sheet[:, 16 + 2 * CELL : 24 + 2 * CELL]], axis=1)
    assert (gaps == 255).all()


@pytest.mark.parametrize("label", ["\u732b\u732b", "x" * 300, "\x1b[31m\x00\ud800", "\n\n", "word " * 500])
def test_any_text_is_a_label(label: str) -> None:
    sheet = labelled_sheet([GREY], [label], columns=1)
    assert sheet.shape[1] == CELL + 16
    assert sheet.shape[0] <= 112 + 8 * 14 + 4 + 16
    assert (sheet[:, -8:] == 255).all()


def test_originals_are_above_what_became_of_them() -> None:
    sheet = compared_sheet([GREY, GREY], [GREY // 2, GREY // 2])
    assert sheet[8, 8, 0] == 200
    half = sheet.shape[0] // 2 + 4
    assert sheet[half, 8, 0] == 100
    assert dark_below(sheet[:half], 0).any()
    assert dark_below(sheet[:half], 1).any()


def test_each_row_is_as_high_as_its_longest_label_and_no_label_is_cut() -> None:
    """Two rows of two: one line, then a label of twelve lines, which is whole; and a last row that is not full."""
    long = "\n".join(["word"] * 12)
    sheet = labelled_sheet([GREY] * 5, ["a", "b", "c", long, "e"], columns=2, least=48, most_lines=20)
    scaled, heights = (48, 72), [48 + 14 + 4, 48 + 12 * 14 + 4, 48 + 14 + 4]
    assert sheet.shape[:2] == (sum(heights) + 4 * 8, 2 * 72 + 3 * 8)
    top = 8
    for row, height in enumerate(heights):
        for column in range(2 if row < 2 else 1):
            left = 8 + column * (72 + 8)
            cell = sheet[top : top + height, left : left + 72]
            assert (cell[: scaled[0]] == 200).all()
            lines = 12 if (row, column) == (1, 1) else 1
            written = [(cell[48 + 2 + 14 * n : 48 + 2 + 14 * (n + 1)] < 100).any() for n in range(lines)]
            assert all(written)
        top += height + 8
    assert (sheet[top - heights[2] - 8 : top - 8, 88:] == 255).all()  # no picture there
    cut = labelled_sheet([GREY], [long], columns=1, least=48, most_lines=3)
    assert cut.shape[0] == 48 + 3 * 14 + 4 + 16
