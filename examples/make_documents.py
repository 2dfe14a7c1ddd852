"""Turn data of any form into documents that tfcli reads: `python examples/make_documents.py my-documents`.

Here the data is made up: pages that count coloured squares. Replace `pages` by a loop over your own. Then:

    tfcli doctor my-documents/documents.jsonl
    tfcli run recipes/folder.toml --set source.kind=jsonl --set source.path=my-documents/documents.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "gold")
Part = str | Image.Image


def pages() -> Iterator[tuple[str, list[Part]]]:
    """(id, parts): texts and pictures in the order in which the model shall read them."""
    for number, colour in enumerate(COLOURS):
        parts: list[Part] = []
        for count in (1, 2, 3):
            picture = Image.new("RGB", (64, 64), "white")
            for square in range(count):
                ImageDraw.Draw(picture).rectangle((4 + 20 * square, 24, 18 + 20 * square, 38), fill=colour)
            parts += [f"{count} {colour}: ", picture]
        yield f"page-{number}", parts


def main(folder: Path) -> None:
    """Write documents.jsonl, a document a line, and the pictures next to it."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    with (folder / "documents.jsonl").open("w") as lines:
        for name, parts in pages():
            written = []
            for number, part in enumerate(parts):
                if isinstance(part, str):
                    written.append({"text": part})
                else:
                    file = f"pictures/{name}-{number}.png"
                    part.save(folder / file)
                    written.append({"image": file})
            lines.write(json.dumps({"id": name, "parts": written}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
