"""The pictures of an artifact as a page: latents decoded by their own autoencoder, each with the text of its document."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from pathlib import Path

import numpy as np

from stages.artifacts.latents import Latents, StoredDocument, StoredImage, StoredText
from stages.artifacts.sequences import Sequences
from stages.coders.pixels import encode_png
from stages.core.errors import ExitCode, TfcliError
from stages.inspection.rows import documents_of
from stages.sources.text_rules import printable

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; }
figure { margin: 0; padding: .7rem; border: 1px solid #8884; border-radius: 8px; background: #8881; overflow-wrap: anywhere; }
img { height: 128px; max-width: 100%; object-fit: contain; object-position: left; image-rendering: pixelated; display: block; }
figcaption { margin-top: .4rem; } small { opacity: .65; display: block; }
"""


def picture_page(folder: Path, kind: str, count: int, device: str) -> tuple[str, int]:
    """HTML with up to `count` pictures of Latents or Sequences, and how many there are on it. Those of Latents lie evenly over
    all of them, those of Sequences are the first of the training side."""
    latents = Latents.open(folder if kind == "latents" else Sequences.open(folder).latents_folder())
    wanted: dict[int, int] = {}  # grid by row of latents
    if kind == "sequences":
        wanted = {row: grid for _, row, grid in documents_of(folder, "train", count)}
    cards = []
    grids = latents.grid_of_row()
    if kind == "latents":
        rows = np.unique(np.linspace(0, len(grids) - 1, count).astype(int))
        wanted = {int(row): int(grids[row]) for row in rows}
    # here: torch takes seconds
    from stages.coders.vae import load_vae

    vae = load_vae(latents.autoencoder_folder() / "model", device=device)
    readers = {grid: latents.rows(grid) for grid in set(wanted.values())}
    for document in latents.documents():
        for part in document.segments:
            if isinstance(part, StoredImage) and part.row in wanted:
                pixels = None
                if part.ok:
                    grid = wanted[part.row]
                    stored = readers[grid].read(np.array([part.row]))[:, 0].astype(np.float32)
                    pixels = encode_png(vae.decode(stored)[0])
                cards.append(_card(document, part, pixels))
    if not cards:
        raise TfcliError(
            f"{folder} holds no picture", fix="give the latents that the pictures are in", code=ExitCode.USAGE
        )
    title = f"{len(cards)} of {latents.content.num_images:,} pictures, as {printable(str(folder))} holds them"
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1><main>{''.join(cards)}</main></body></html>\n"
    ), len(cards)


def _card(document: StoredDocument, image: StoredImage, png: bytes | None) -> str:
    words = " ... ".join(part.text for part in document.segments if isinstance(part, StoredText))
    shown = printable(words if len(words) < 500 else words[:500] + " ...")
    about = f"{document.key}, row {image.row}" + ("" if document.source == "pictures" else f", from {document.source}")
    drawn = (
        f"<img src='data:image/png;base64,{b64encode(png).decode()}' alt='{escape(printable(image.name))}'>"
        if png
        else "<p>could not be encoded: see errors.jsonl</p>"
    )
    return (
        f"<figure>{drawn}<figcaption>{escape(shown) or '<i>no text</i>'}"
        f"<small>{escape(printable(about))}</small></figcaption></figure>"
    )
