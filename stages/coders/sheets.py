"""Many pictures on one: contact sheets, bare or with a label below each picture, drawn in pillow's own font."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stages.coders.pixels import Pixels
from stages.core.text import printable

_LEAST = 112  # pixels of the shorter side of a labelled picture
_LINE, _FONT = 14, 11  # pixels of a line of a label, and of its letters
_MOST_LINES = 8


def contact_sheet(
    pictures: Sequence[Pixels], columns: int, gap: int = 4, background: tuple[int, int, int] = (255, 255, 255)
) -> Pixels:
    """All pictures in rows of `columns`, each in the middle of a cell as large as the largest, `gap` pixels between."""
    assert pictures, "a contact sheet of nothing"
    assert columns > 0
    cell_height = max(picture.shape[0] for picture in pictures)
    cell_width = max(picture.shape[1] for picture in pictures)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    shape = (rows * (cell_height + gap) + gap, columns * (cell_width + gap) + gap, 3)
    sheet = np.broadcast_to(np.array(background, dtype=np.uint8), shape).copy()
    for index, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        top = gap + (index // columns) * (cell_height + gap) + (cell_height - height) // 2
        left = gap + (index % columns) * (cell_width + gap) + (cell_width - width) // 2
        sheet[top : top + height, left : left + width] = picture
    return sheet


def labelled_sheet(
    pictures: Sequence[Pixels],
    labels: Sequence[str],
    columns: int,
    gap: int = 8,
    *,
    least: int = _LEAST,
    most_lines: int = _MOST_LINES,
) -> Pixels:
    """A contact sheet of whole enlargements of small pictures, each with its label below; a row is as high as its longest label.

    Args:
        pictures: in order, row by row.
        labels: one for each picture.
        columns: pictures of a row.
        gap: pixels between cells.
        least: pixels of the shorter side of a picture; smaller ones are enlarged, as words need room.
        most_lines: of a label; what does not fit ends in dots.
    """
    scale = max(1, -(-least // min(min(picture.shape[:2]) for picture in pictures)))
    large = [picture.repeat(scale, 0).repeat(scale, 1) for picture in pictures]
    width = max(picture.shape[1] for picture in large)
    font = ImageFont.load_default(_FONT)
    wrapped = [_wrapped(label, width, font, most_lines) for label in labels]
    rows: list[Pixels] = []
    for start in range(0, len(large), columns):
        row = list(zip(large[start : start + columns], wrapped[start : start + columns], strict=True))
        height = max(picture.shape[0] + _LINE * len(lines) for picture, lines in row) + 4
        cells = [_labelled(picture, lines, width, height, font) for picture, lines in row]
        blank = np.full_like(cells[0], 255)
        cells += [blank] * (min(columns, len(large)) - len(cells))
        sheet = contact_sheet(cells, columns, gap)
        rows.append(sheet[gap:] if rows else sheet)  # one gap between rows
    return np.concatenate(rows)


def _labelled(
    picture: Pixels, lines: list[str], width: int, height: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> Pixels:
    cell = Image.new("RGB", (width, height), "white")
    cell.paste(Image.fromarray(picture), ((width - picture.shape[1]) // 2, 0))
    pen = ImageDraw.Draw(cell)
    for number, line in enumerate(lines):
        pen.text((0, picture.shape[0] + 2 + number * _LINE), line, fill="black", font=font)
    return np.array(cell)


def compared_sheet(before: Sequence[Pixels], after: Sequence[Pixels]) -> Pixels:
    """Pictures above what an autoencoder made of them, both labelled."""
    labels = ["original"] * len(before) + ["through the autoencoder"] * len(after)
    return labelled_sheet([*before, *after], labels, columns=len(before))


def _wrapped(label: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, most_lines: int) -> list[str]:
    """Lines of at most `width` pixels, broken between words, or inside a word that is longer than a line. The font has Latin
    letters alone: others become question marks. What does not fit into most_lines ends in dots."""
    lines = []
    for part in label.split("\n"):
        line = ""
        for word in printable(part).encode("latin-1", "replace").decode("latin-1").split():
            if line and font.getlength(f"{line} {word}") > width:
                lines.append(line)
                line = ""
            line = f"{line} {word}" if line else word
            while len(line) > 1 and font.getlength(line) > width:
                cut = max(1, next(n for n in range(len(line), -1, -1) if font.getlength(line[:n]) <= width))
                lines.append(line[:cut])
                line = line[cut:]
        lines.append(line)
    if len(lines) > most_lines:
        lines = [*lines[: most_lines - 1], "..."]
    return lines
