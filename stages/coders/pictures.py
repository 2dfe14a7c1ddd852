"""A source's picture -> square uint8 pixels of the recipe's size. Imports no torch: it runs in worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any

import numpy as np

from stages.coders.config import Images
from stages.coders.pixels import BadImage, Pixels, decode, fit
from stages.sources.document import Picture


@dataclass(frozen=True)
class Fitted:
    """pixels (size, size, 3), or None with a reason code and a message. notes: codes of what was mended on the way."""

    pixels: Pixels | None
    reason: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()


def read_picture(picture: Picture, images: Images) -> Fitted:
    """Read, decode and fit one picture. Never raises for what the picture holds."""
    try:
        data = picture.read()
        if isinstance(data, np.ndarray):
            return Fitted(fit(data, images.size, images.fit))
        decoded = decode(data, images.policy)
        return Fitted(fit(decoded.pixels, images.size, images.fit), notes=decoded.notes)
    except BadImage as bad:
        return Fitted(None, bad.reason, bad.message)
    except OSError as error:
        return Fitted(None, "UNREADABLE", error.strerror or str(error))


def read_pictures(pictures: Iterator[Picture], images: Images, workers: int) -> Iterator[Fitted]:
    """The pictures in order, decoded in `workers` processes (0: here), a bounded number ahead."""
    if workers == 0:
        for picture in pictures:
            yield read_picture(picture, images)
        return
    batches = _batched(pictures, 16)
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        waiting: list[Future[list[Fitted]]] = []
        for batch in batches:
            waiting.append(pool.submit(_read_batch, batch, images))
            if len(waiting) > 4 * workers:
                yield from waiting.pop(0).result()
        for future in waiting:
            yield from future.result()


def _read_batch(batch: list[Picture], images: Images) -> list[Fitted]:
    return [read_picture(picture, images) for picture in batch]


def _batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(items, size)):
        yield batch
