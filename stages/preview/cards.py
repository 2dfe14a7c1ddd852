"""An artifact as cards with pictures and their texts: reads latents (decoded), sequences, samples, autoencoder, scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from stages.artifacts.autoencoder import SHEET, Autoencoder
from stages.artifacts.latents import SHEET as CHECK
from stages.artifacts.latents import Latents, StoredDocument, StoredImage, StoredText
from stages.artifacts.manifest import open_artifact
from stages.artifacts.samples import Part, Record, Samples
from stages.artifacts.scores import MISTAKES
from stages.artifacts.sequences import Sequences, Side
from stages.coders.pixels import BadImage, PixelPolicy, Pixels, decode
from stages.core.errors import ExitCode, TfcliError
from stages.core.reading import read_bounded
from stages.preview.rows import PackedDocument, read_rows
from stages.sources.document import MAX_READ_BYTES

Item = TypeVar("Item")
_BATCH = 32  # pictures that are decoded together
_CHECKED = "the first pictures as they were, and below them as the stored latents give them back"
_SHEETS = {"autoencoder": (SHEET, "held-out pictures above, what the autoencoder makes of them below")}
_SHEETS["scores"] = (MISTAKES, "what the judge found wrong")


# What a reader of the page must know of pictures that are not the files of the source.
_THROUGH = "Pictures are shown as the autoencoder gives them back from stored latents, not as the source has them."
ABOUT = dict.fromkeys(("latents", "sequences"), _THROUGH)


@dataclass(frozen=True)
class CardNote:
    """A word of ours between the parts of a card: never text of the user alone."""

    text: str


@dataclass(frozen=True)
class Card:
    """A document in reading order, or a sheet of pictures. given: of samples, how many of the parts were given to the model."""

    title: str
    parts: tuple[str | Pixels | CardNote, ...]
    given: int | None = None
    is_sheet: bool = False


def cards_of(folder: Path, kind: str, *, count: int, side: Side, device: str) -> list[Card]:
    """At most `count` documents of an artifact. Raises TfcliError (USAGE) for a kind without pictures."""
    if kind == "latents":
        return _of_latents(Latents.open(folder), count, device)
    if kind == "sequences":
        return _of_sequences(Sequences.open(folder), count, side, device)
    if kind == "samples":
        return [_of_record(folder, record) for record in _spread(list(Samples.open(folder).records()), count)]
    if kind in _SHEETS:
        open_artifact(folder, kind)
        if kind == "autoencoder":
            Autoencoder.open(folder)
        name, title = _SHEETS[kind]
        if not (folder / name).is_file():
            raise TfcliError(f"{folder} has no {name}", why="there was nothing to show", code=ExitCode.USAGE)
        return [Card(title, (_file(folder, name),), is_sheet=True)]
    raise TfcliError(
        f"{folder} holds no pictures: it is of the kind {kind}",
        fix="give latents, sequences, samples, scores or an autoencoder",
        code=ExitCode.USAGE,
    )


def pictures_of_cards(cards: Sequence[Card]) -> list[Pixels]:
    """All pictures in order."""
    return [part for card in cards for part in card.parts if isinstance(part, np.ndarray)]


def card_caption(card: Card) -> str:
    """The texts of a card on one line."""
    return " ".join(part for part in card.parts if isinstance(part, str))


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items, evenly spread, the first one among them."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def _of_latents(latents: Latents, count: int, device: str) -> list[Card]:
    with_pictures = [document.index for document in latents.documents() if _images(document)]
    wanted = set(_spread(with_pictures, count))
    chosen = [document for document in latents.documents() if document.index in wanted]
    grid_rows = {(image.grid, image.row) for document in chosen for image in _images(document) if image.ok}
    pixels = decode_rows(latents, grid_rows, device)
    checked = (
        [Card(_CHECKED, (_file(latents.folder, CHECK),), is_sheet=True)] if (latents.folder / CHECK).is_file() else []
    )
    return checked + [Card(document.key, tuple(_latent_parts(document, pixels))) for document in chosen]


def _images(document: StoredDocument) -> list[StoredImage]:
    return [segment for segment in document.segments if isinstance(segment, StoredImage)]


def _latent_parts(document: StoredDocument, pixels: dict[tuple[int, int], Pixels]) -> Iterator[str | Pixels | CardNote]:
    for segment in document.segments:
        if isinstance(segment, StoredText):
            yield segment.text
        elif segment.ok:
            yield pixels[segment.grid, segment.row]
        else:
            yield CardNote(f"[{segment.name}: left out, see errors.jsonl]")


def _of_sequences(sequences: Sequences, count: int, side: Side, device: str) -> list[Card]:
    """The first documents of the first rows that hold a picture."""
    number = len(sequences.split(side).ids)
    found: list[tuple[int, PackedDocument]] = []
    for row in read_rows(sequences, side, range(min(number, count))):
        found += [(row.row, one) for one in row.documents if any(span.image for span in one.spans)]
    found = found[:count]
    grid_rows = {(span.image.grid, span.image.row) for _, one in found for span in one.spans if span.image}
    pixels = decode_rows(Latents.open(sequences.latents_folder()), grid_rows, device)
    return [_packed_card(side, row, one, pixels) for row, one in found]


def _packed_card(side: str, row: int, one: PackedDocument, pixels: dict[tuple[int, int], Pixels]) -> Card:
    parts: list[str | Pixels | CardNote] = []
    for span in one.spans:
        if span.kind == "text":
            parts.append(span.text)
        elif span.image is not None:
            parts.append(pixels[span.image.grid, span.image.row])
    if one.caption_dropped:
        parts.append(CardNote("[caption dropped]"))
    return Card(f"{side} row {row}, from {one.start}: {one.key}", tuple(parts))


def _of_record(folder: Path, record: Record) -> Card:
    given = [_part(folder, part) for part in record.prompt]
    made: list[str | Pixels | CardNote] = [_part(folder, part) for part in record.output]
    if not any(isinstance(part, np.ndarray) or part for part in made):
        made = [CardNote("[nothing]")]
    title = f"{record.mode} {record.index}" + (f": {record.key}" if record.key else "")
    return Card(title, (*given, *made), len(given))


def _part(folder: Path, part: Part) -> str | Pixels:
    return part.text or "" if part.image is None else _file(folder, part.image)


def _file(folder: Path, name: str) -> Pixels:
    """A picture file of an artifact; a name that leads out of its folder is refused."""
    path = folder / name
    why = "it leads out of the artifact"
    if path.resolve().is_relative_to(folder.resolve()):
        try:
            return decode(read_bounded(path, MAX_READ_BYTES), PixelPolicy(max_aspect=1000)).pixels
        except BadImage as bad:
            why = bad.message
        except OSError as error:
            why = error.strerror or "cannot be read"
    raise TfcliError(f"{path} cannot be shown", why=why, fix="check it with 'tfcli verify'", code=ExitCode.ARTIFACT)


def decode_rows(latents: Latents, grid_rows: set[tuple[int, int]], device: str) -> dict[tuple[int, int], Pixels]:
    """Pictures of (grid, row), decoded from their stored means by the autoencoder that made them."""
    from stages.coders.vae import load_vae  # here: it brings torch

    if not grid_rows:
        return {}
    vae = load_vae(latents.autoencoder().model_folder, device=device)
    by_grid: defaultdict[int, list[int]] = defaultdict(list)
    for grid, row in sorted(grid_rows):
        by_grid[grid].append(row)
    pixels: dict[tuple[int, int], Pixels] = {}
    for grid, rows in by_grid.items():
        reader = latents.rows(grid)
        for first in range(0, len(rows), _BATCH):
            batch = rows[first : first + _BATCH]
            raw = reader.read(np.array(batch))[:, 0].astype(np.float32)
            pixels.update({(grid, row): picture for row, picture in zip(batch, vae.decode(raw), strict=True)})
    return pixels
