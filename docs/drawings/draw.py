"""Write the two drawings of the documents: `make drawings`.

pipeline.svg   the stages, the artifact that each makes, and which artifacts each reads: from `stages.pipeline.STAGES`
row.svg        one packed row with its attention mask: from `stages.model.attention.allowed`

Each is one SVG with its own background, so that it can be read on a light and on a dark page. A test compares the committed
files with what this script makes.
"""

from __future__ import annotations

import html
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from stages.model.attention import allowed
from stages.pipeline import STAGES

FOLDER = Path(__file__).parent
STYLE = """
  .panel { fill: #ffffff; stroke: #d0d7de }
  text { fill: #1f2328; font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif }
  .small { font-size: 11px } .strong { font-weight: 600 } .soft { fill: #59636e }
  .box { fill: #f6f8fa; stroke: #8c959f } .line { stroke: #59636e; fill: none; stroke-width: 1.5 } .tip { fill: #59636e }
  .reference { stroke: #0969da; fill: none; stroke-width: 1.5; stroke-dasharray: 4 3 } .reference-tip { fill: #0969da }
  .text { fill: #54aeff } .patch { fill: #f0883e } .mark { fill: #8c959f } .pad { fill: #eaeef2 }
  .past { fill: #7d8fa3 } .future { fill: #f0883e } .closed { fill: #f6f8fa } .grid { stroke: #ffffff }
  @media (prefers-color-scheme: dark) {
    .panel { fill: #0d1117; stroke: #3d444d } text { fill: #f0f6fc } .soft { fill: #9198a1 }
    .box { fill: #151b23; stroke: #656c76 } .line { stroke: #9198a1 } .tip { fill: #9198a1 }
    .reference { stroke: #4493f8 } .reference-tip { fill: #4493f8 }
    .text { fill: #388bfd } .patch, .future { fill: #db6d28 } .mark { fill: #656c76 }
    .past { fill: #5f7085 } .pad { fill: #212830 }
    .closed { fill: #151b23 } .grid { stroke: #0d1117 }
  }
"""
# What each artifact holds, for people; the names and the arrows come from the pipeline.
HOLDS = {
    "autoencoder": "pixels to latents and back",
    "latents": "every picture as numbers, in Zarr shards",
    "tokens": "ids of every text, references to latents",
    "sequences": "rows of a fixed length, held-out rows",
    "checkpoint": "weights, metrics, report.html",
    "samples": "pictures, texts, index.html",
    "scores": "held-out losses, figures of the judge",
}


@dataclass(frozen=True)
class Element:
    """One element of the packed row. kind: "mark" (a special token), "text" or "patch"; image: its number, -1 outside images."""

    label: str
    kind: str
    document: int
    image: int = -1


def example_row() -> list[Element]:
    """Two documents and two elements of padding: a caption with its picture, then text that goes on after a picture."""
    row = []
    for document, parts in enumerate(((("a", "red", "dot"), None), (("dusk",), None, ("then", "night")))):
        row.append(Element("BOS", "mark", document))
        for part in parts:
            if part is None:
                row.append(Element("BOI", "mark", document))
                row += [Element(f"p{number}", "patch", document, document) for number in range(4)]
                row.append(Element("EOI", "mark", document))
            else:
                row += [Element(word, "text", document) for word in part]
        row.append(Element("EOS", "mark", document))
    return row + [Element("pad", "pad", 2)] * 2


def mask_of(row: list[Element]) -> torch.Tensor:
    """(N, N), True where the element of that line may read the element of that column."""
    documents_N = torch.tensor([element.document for element in row])
    images_N = torch.tensor([element.image for element in row])
    return allowed(documents_N, images_N)


def loss_of(row: list[Element]) -> list[str]:
    """The loss at each element: "text" (its output predicts the next id), "image" (its output predicts its own noise), or ""."""
    losses = []
    for element, after in zip(row, [*row[1:], None], strict=True):
        last = after is None or after.document != element.document
        if element.kind == "patch":
            losses.append("image")
        else:
            losses.append("" if last or element.label == "BOI" or element.kind == "pad" else "text")
    return losses


def positions_of(row: list[Element]) -> list[int]:
    """The rotary position of each element: counted from 0 in each document."""
    first = {element.document: index for index, element in reversed(list(enumerate(row)))}
    return [index - first[element.document] for index, element in enumerate(row)]


def row_drawing() -> str:
    """The packed row: its elements, positions and losses, and below them the mask, a line for each element that reads."""
    row, side, left, top = example_row(), 19, 76, 92
    size, mask, losses, positions = (
        len(row),
        mask_of(example_row()),
        loss_of(example_row()),
        positions_of(example_row()),
    )
    shapes = [_text(left + 19 * size / 2, 22, "one packed row", "strong", "middle")]
    for index, element in enumerate(row):
        x, middle = left + index * side, left + index * side + side / 2
        shapes.append(_cell(x, 40, side, element.kind))
        shapes.append(
            f'<text class="small" transform="translate({middle + 4} {top + 22}) rotate(-90)">{element.label}</text>'
        )
        shapes.append(_text(middle, 73, "" if element.kind == "pad" else str(positions[index]), "small soft", "middle"))
    shapes += [
        _text(left - 8, 54, "element", "small soft", "end"),
        _text(left - 8, 73, "position", "small soft", "end"),
    ]
    top += 32
    for line in range(size):
        y = top + line * side
        shapes.append(_text(left - 8, y + 14, row[line].label, "small", "end"))
        for column in range(size):
            inside = row[line].kind != "pad" and bool(mask[line, column])
            kind = ("future" if column > line else "past") if inside else "closed"
            shapes.append(_cell(left + column * side, y, side, kind))
        shapes.append(_text(left + size * side + 8, y + 14, losses[line], "small soft"))
    shapes.append(_text(left + size * side + 8, top - 8, "loss", "small soft"))
    shapes.append(_text(14, top - 8, "reads:", "small soft"))
    bottom = top + size * side + 22
    keys = (
        ("text", 0, 0, "text"),
        ("mark", 70, 0, "special token"),
        ("patch", 196, 0, "patch"),
        ("pad", 274, 0, "padding"),
        ("past", 0, 22, "reads itself and what is before it"),
        ("future", 0, 44, "reads later patches of its own image"),
    )
    for kind, right, down, words in keys:
        shapes += [_cell(left + right, bottom - 12 + down, 14, kind), _text(left + right + 22, bottom + down, words)]
    return _svg(left + size * side + 56, bottom + 58, "One packed row of two documents and its attention mask", shapes)


def pipeline_drawing() -> str:
    """The stages as arrows between artifacts, top to bottom; references to artifacts further up at the right."""
    width, height, gap, x = 150, 40, 34, 24
    kinds = ["source", *(stage.kind for stage in STAGES)]
    y_of = {kind: 24 + index * (height + gap) for index, kind in enumerate(kinds)}
    shapes = []
    last = [stage for stage in STAGES if stage.inputs == ("checkpoint",)]
    for stage in STAGES:
        y, branch = y_of[stage.kind], stage in last[1:]
        shapes.append(_text(x + width / 2 + 12, y - 12, f"tfcli {stage.name}", "small strong"))
        start = y_of["checkpoint"] + height / 2 if branch else y - gap
        if branch:
            shapes.append(_path("line", (x, start), (x - 12, start), (x - 12, y + height / 2), (x, y + height / 2)))
            shapes.append(_tip("tip", x, y + height / 2, right=True))
        else:
            shapes += [_path("line", (x + width / 2, start), (x + width / 2, y)), _tip("tip", x + width / 2, y)]
    for kind in kinds:
        name = "your pictures and texts" if kind == "source" else kind
        shapes.append(f'<rect class="box" x="{x}" y="{y_of[kind]}" width="{width}" height="{height}" rx="6"/>')
        shapes.append(
            _text(x + width / 2, y_of[kind] + 25, name, "small strong" if kind == "source" else "strong", "middle")
        )
        shapes.append(
            _text(x + width + 64, y_of[kind] + 25, HOLDS.get(kind, "read by each source, left as they are"), "soft")
        )
    lane = 0
    for stage in STAGES:
        for kind in _references(stage.name):
            edge, right = x + width, x + width + 24 + 12 * lane
            start, end = y_of[kind] + height / 2 + 4 * lane, y_of[stage.kind] + height / 2
            shapes.append(_path("reference", (edge, start), (right, start), (right, end), (edge, end)))
            shapes.append(_tip("reference-tip", edge, end, right=False, left=True))
            lane += 1
    bottom = y_of[kinds[-1]] + height + 30
    shapes.append(_path("reference", (x, bottom - 4), (x + 28, bottom - 4)))
    shapes.append(_text(x + 36, bottom, "read by reference, never copied", "small"))
    return _svg(x + width + 64 + 272, bottom + 16, "The stages of tfcli and the artifacts between them", shapes)


def _references(stage_name: str) -> list[str]:
    """The artifacts that a stage reads besides the one before it."""
    index = next(index for index, stage in enumerate(STAGES) if stage.name == stage_name)
    stage, before = STAGES[index], STAGES[index - 1].kind
    kinds = [kind for kind in stage.inputs if index and kind not in (before, "checkpoint")]
    # the rows of latents that packed rows name are read where they are
    return [*kinds, "latents"] if stage_name == "train" else kinds


def _cell(x: float, y: float, side: float, kind: str) -> str:
    return f'<rect class="{kind} grid" x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}"/>'


def _text(x: float, y: float, words: str, names: str = "", anchor: str = "start") -> str:
    return (
        f'<text class="{names}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{html.escape(words)}</text>' if words else ""
    )


def _path(name: str, *points: tuple[float, float]) -> str:
    return f'<path class="{name}" d="M' + " L".join(f"{x:g} {y:g}" for x, y in points) + '"/>'


def _tip(name: str, x: float, y: float, *, right: bool = False, left: bool = False) -> str:
    """An arrow's head whose point is at (x, y); it points down where neither is set."""
    ends = ((-7, -4), (-7, 4)) if right else ((7, -4), (7, 4)) if left else ((-4, -7), (4, -7))
    corners = " ".join(f"{x + dx:g},{y + dy:g}" for dx, dy in ((0, 0), *ends))
    return f'<polygon class="{name}" points="{corners}"/>'


def _svg(width: float, height: float, title: str, shapes: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">'
    panel = f'<rect class="panel" x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1:g}" rx="8"/>'
    body = "\n".join(shape for shape in shapes if shape)
    return f"{head}\n<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n{panel}\n{body}\n</svg>\n"


DRAWINGS = {"pipeline.svg": pipeline_drawing, "row.svg": row_drawing}


def main() -> None:
    """Write all drawings next to this file."""
    for name, drawing in DRAWINGS.items():
        (FOLDER / name).write_text(drawing())
        sys.stdout.write(f"{FOLDER / name}\n")


if __name__ == "__main__":
    main()
