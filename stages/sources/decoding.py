"""A source's picture -> uint8 pixels of the recipe's size. Imports no torch: it runs in worker processes."""

from __future__ import annotations

import resource
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Event
from typing import Any

import numpy as np

from stages.coders.config import Images
from stages.coders.pixels import BadImage, Pixels, crop, decode, pad, to_image
from stages.core.errors import TfcliError
from stages.core.processes import forkserver
from stages.sources.document import PictureFile

_CRASHED, _CHANGED = "DECODER_CRASHED", "CHANGED_DURING_READ"
_BATCH = 16  # pictures that go to a worker together
_START_SECONDS = 60.0  # for a worker to start on a busy machine
_MAX_MEMORY = 8 << 30  # of a worker; 64 MP with alpha in 16 bits, twice, is 1 GB


@dataclass(frozen=True)
class Fitted:
    """pixels (height, width, 3) of one of Images.shapes, or None with a reason code and a message.
    notes: codes of what was corrected on the way. refusal: what ends the run, not this picture alone."""

    pixels: Pixels | None
    reason: str = ""
    message: str = ""
    notes: tuple[str, ...] = ()
    refusal: TfcliError | None = None


def read_picture(picture: PictureFile, images: Images) -> Fitted:
    """Read, decode and fit one picture. Never raises for what the picture holds."""
    try:
        data = picture.read()
        if isinstance(data, np.ndarray):
            return Fitted(fit(to_image(data), images))
        # twice the size: what is averaged in decoding is no longer seen after resizing
        decoded = decode(data, images.policy, least=2 * images.size)
        return Fitted(fit(decoded.image, images), notes=decoded.notes)
    except BadImage as bad:
        return Fitted(None, bad.reason, bad.message)
    except TfcliError as changed:
        return Fitted(None, _CHANGED, message=changed.what, refusal=changed)
    except OSError as error:
        return Fitted(None, "UNREADABLE", error.strerror or str(error))


def fit(image: Any, images: Images) -> Pixels:
    """A pillow image in the shape that the recipe gives it."""
    if images.fit == "pad":
        return pad(image, images.size)
    return crop(image, *images.shape_of(image.size[1], image.size[0]))


class PictureReader:
    """Reads, decodes and fits pictures in `workers` processes that live as long as the `with` block (0: in this one).

    A picture that kills its process twice (a fault in native code; once may be the kernel, short of memory) or keeps it busy
    for longer than policy.max_seconds costs that picture alone; without worker processes it costs the run.
    """

    def __init__(self, images: Images, workers: int) -> None:
        self.images = images
        self.workers = workers
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        self._closing = Event()

    def __enter__(self) -> PictureReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._threads is not None:
            self._closing.set()
            self._threads.shutdown(wait=True, cancel_futures=True)
            while not self._idle.empty():
                self._idle.get().stop()

    def read(self, pictures: Iterable[PictureFile]) -> Iterator[Fitted]:
        """The pictures in order, a bounded number ahead. Raises TfcliError (INPUT) where one is written to meanwhile."""
        for fitted in self._read(pictures):
            if fitted.refusal is not None:
                raise fitted.refusal
            yield fitted

    def _read(self, pictures: Iterable[PictureFile]) -> Iterator[Fitted]:
        if self.workers == 0:
            yield from (read_picture(picture, self.images) for picture in pictures)
            return
        if self._threads is None:  # a thread for each process, so that what it sends is taken off its hands
            self._threads = ThreadPoolExecutor(self.workers)
            for _ in range(self.workers):
                self._idle.put(_Worker(self.images))
        waiting: deque[Future[list[Fitted]]] = deque()
        for batch in _batched(iter(pictures), _BATCH):
            waiting.append(self._threads.submit(self._decode, batch))
            if len(waiting) > 4 * self.workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()

    def _decode(self, batch: list[PictureFile]) -> list[Fitted]:
        """In a thread: have a process decode the batch; where it is lost, another one goes on behind the picture, or with it
        where it died for the first time."""
        worker = self._idle.get()
        found: list[Fitted] = []
        tried = -1  # the place of the last picture whose process died
        try:
            worker.give(batch)
            while len(found) < len(batch) and not self._closing.is_set():
                fitted = worker.take()
                if fitted.reason == _CRASHED and tried != len(found):
                    tried = len(found)
                else:
                    found.append(fitted)
                if worker.lost:
                    worker.stop()
                    worker = _Worker(self.images)
                    worker.give(batch[len(found) :])
        finally:
            self._idle.put(worker)
        return found


class _Worker:
    """A process that decodes, and this side of the pipe to it."""

    def __init__(self, images: Images) -> None:
        self.lost = False
        self._max_seconds = images.policy.max_seconds
        self._patience = _START_SECONDS + self._max_seconds
        context = forkserver()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, images), daemon=True)
        self._process.start()
        theirs.close()

    def give(self, batch: list[PictureFile]) -> None:
        try:
            self._pipe.send(batch)
        except OSError:  # it died between two batches; `take` tells
            return

    def take(self) -> Fitted:
        """The next picture of the batch; after one that was not decoded the process is lost."""
        try:
            if self._pipe.poll(self._patience):
                fitted: Fitted = self._pipe.recv()
                self._patience = self._max_seconds
                return fitted
            reason, message = "DECODER_TIMEOUT", f"not decoded within {self._max_seconds:g} s"
        except (EOFError, OSError):
            reason, message = _CRASHED, "the process that decoded it died, and another one as well"
        self.lost = True
        return Fitted(None, reason, message)

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, images: Images) -> None:
    """In a worker process: decode batches until the other side is gone. Signals are the business of the other side: they
    reach the whole group, and a picture whose worker they ended would be taken for a damaged one."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # memory beyond this is a MemoryError of one picture, not the end of other programs
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MAX_MEMORY if hard == resource.RLIM_INFINITY else min(_MAX_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            for picture in pipe.recv():
                pipe.send(read_picture(picture, images))


def _batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(items, size)):
        yield batch
