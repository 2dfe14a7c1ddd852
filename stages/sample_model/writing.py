"""Sampled documents on disk as they come: pictures as PNG with all that it takes to draw them again, GIFs of the denoising,
records; and what to tell of them on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic_core import to_jsonable_python
from torch import Tensor

from stages.artifacts.samples import Asked, Given, Part, Record
from stages.coders.pixels import Pixels, encode_gif, encode_png
from stages.core.events import Passage, Progress
from stages.core.files import write_atomic
from stages.core.hashing import hash_file
from stages.core.runtime import Runtime
from stages.core.text import shortened
from stages.generation.loading import LoadedModel
from stages.generation.prompts import (
    Denoised,
    Ended,
    GenerationEvent,
    ImageDone,
    ImageStarted,
    Piece,
    TextAdded,
    TextPiece,
)
from stages.sample_model.config import PicturePart
from stages.sample_model.events import LIMITS, REASONS
from stages.sample_model.pictures import drawn_pixels, shown_mask
from stages.sample_model.tasks import Task

FRAMES = 24  # estimates of a GIF, whatever the number of steps


@dataclass(frozen=True)
class RunInfo:
    """What all documents of a mode share. checkpoint: its digest; settings: of the generation."""

    seed: int
    checkpoint: str
    settings: dict[str, Any]
    gif: bool


@dataclass
class GifFrames:
    """Estimates of an image under way, evenly spread over its steps, of which nobody knows how many will come: all of them at
    first, and from there on every second, fourth ... so that there are never more than a GIF shows."""

    kept: list[Tensor] = field(default_factory=list)
    every: int = 1
    seen: int = 0

    def add(self, estimate_Chw: Tensor) -> None:
        if self.seen % self.every == 0:
            if len(self.kept) == FRAMES:
                self.kept, self.every = self.kept[::2], 2 * self.every
            if self.seen % self.every == 0:
                self.kept.append(estimate_Chw.cpu())
        self.seen += 1


@dataclass
class _Growing:
    """A document under way. frames: of the image that is being denoised."""

    parts: list[Part] = field(default_factory=list)
    frames: GifFrames = field(default_factory=GifFrames)
    ended: str = ""


class Writer:
    """Takes the events of one mode and writes below `folder`. pictures: all that were drawn, by the numbers of their document
    and in it. growing: the documents, by number."""

    def __init__(
        self,
        folder: Path,
        tasks: Sequence[Task],
        loaded: LoadedModel,
        run: RunInfo,
        runtime: Runtime,
        report_parts: bool,
    ) -> None:
        """tell: report what is written and drawn as it comes."""
        self.folder, self.loaded, self.run, self.runtime = folder, loaded, run, runtime
        self.tasks = {task.number: task for task in sorted(tasks, key=lambda task: task.number)}
        self.pictures: dict[tuple[int, int], Pixels] = {}
        self.growing = {number: _Growing() for number in self.tasks}
        self._reporter = _PartReporter(self.tasks, runtime) if report_parts else None
        self._files: dict[str, Given] = {}
        self._levels: dict[tuple[int, int], float] = {}  # of the images under way: the share that is done

    def take(self, event: GenerationEvent) -> None:
        """One event of the engine, of the task of that number."""
        document = self.growing[event.prompt]
        match event:
            case TextAdded(prompt=number, text=text):
                if document.parts and document.parts[-1].text is not None:
                    document.parts[-1] = Part(text=document.parts[-1].text + text)
                else:
                    document.parts.append(Part(text=text))
                self._report(number, text=text)
            case ImageStarted(prompt=number, number=image_number):
                document.frames = GifFrames()
                self._levels[number, image_number] = 0.0
            case Denoised(prompt=number, number=image_number, t=t, estimate=estimate):
                if self.run.gif:
                    document.frames.add(estimate)
                self._levels[number, image_number] = 1 - t / self.loaded.diffusion.num_steps
                self._show_levels()
            case ImageDone(prompt=number, number=image_number, image=image):
                part = self._write_picture(number, image_number, image.latent, document.frames.kept)
                document.frames = GifFrames()
                document.parts.append(part)
                self._levels[number, image_number] = 1.0
                self._show_levels()
                self._report(number, picture=str(part.image))
            case Ended(prompt=number, reason=reason):
                document.ended = reason
                self._report(number, ended=reason, limit=REASONS[reason] if reason in LIMITS else "")

    def records(self) -> Iterator[Record]:
        """Of all documents, in the order of the prompts and their takes."""
        for number, task in self.tasks.items():
            document = self.growing[number]
            yield Record(
                **self._basis(task), output=document.parts, ended=document.ended, **self._edit_options(task, document)
            )

    def _basis(self, task: Task) -> dict[str, Any]:
        """What it takes to make the document again."""
        return {
            "index": task.index,
            "take": task.take,
            "number": task.number,
            "mode": task.mode,
            "key": task.key,
            "seed": self.run.seed,
            "checkpoint": self.run.checkpoint,
            "settings": self.run.settings,
            "prompt": self._given(task),
            "negative": task.prompt.negative,
            "asked": self._asked(task),
        }

    def _asked(self, task: Task) -> Asked:
        prompt, mixed = task.prompt, task.mixed
        draw: bool | Literal["model"] = True if prompt.image_next else "model" if prompt.max_images else False
        if mixed is None:
            return Asked(draw=draw)
        begin = mixed.begin
        return Asked(
            draw=draw,
            size=mixed.size,
            negative=mixed.negative,
            pictures=[self._file(part.image) for part in mixed.parts if isinstance(part, PicturePart)],
            begin=None if begin is None else self._file(begin.image),
            mask=None if begin is None or begin.mask is None else self._file(begin.mask),
            strength=None if begin is None else begin.strength,
        )

    def _file(self, name: str) -> Given:
        if name not in self._files:
            self._files[name] = Given(name=Path(name).name, sha256=hash_file(Path(name)))
        return self._files[name]

    def _edit_options(self, task: Task, document: _Growing) -> dict[str, Any]:
        """What the first drawing, where there is one, began from; of a mask, where latents could change."""
        edit = task.prompt.edit
        if edit is None or all(part.image is None for part in document.parts):
            return {}
        stem = f"images/{task.mode}-{task.index:03d}"
        shown: dict[str, Any] = {"strength": edit.strength}
        assert edit.pixels is not None
        shown["begin"] = self._given_picture(f"{stem}-begin.png", edit.pixels)
        if edit.change_hw is not None:
            white = shown_mask(edit.change_hw, self.loaded).astype(np.uint8) * 255
            shown["mask"] = self._given_picture(f"{stem}-mask.png", np.repeat(white[..., None], 3, axis=-1))
        return shown

    def _given(self, task: Task) -> list[Part]:
        """The prompt; its pictures as the model saw them, after the autoencoder."""
        parts: list[Part] = []
        for piece in task.prompt.pieces:
            if isinstance(piece, TextPiece):
                parts.append(Part(text=piece.text))
                continue
            name = f"images/{task.mode}-{task.index:03d}-prompt-{sum(part.image is not None for part in parts)}.png"
            part = self._given_picture(name, drawn_pixels(piece.latent[None], None, self.loaded)[0])
            if piece.pixels is not None:
                original = self._given_picture(f"{name.removesuffix('.png')}-original.png", piece.pixels)
                part = part.model_copy(update={"original": original.image})
            parts.append(part)
        return parts

    def _given_picture(self, name: str, pixels: Pixels) -> Part:
        if not (self.folder / name).exists():  # it is the same for all samples of the prompt
            write_atomic(self.folder / name, encode_png(pixels, {"checkpoint": self.run.checkpoint}))
        return _picture(name, pixels)

    def _write_picture(self, number: int, image_number: int, latent: Tensor, estimates: list[Tensor]) -> Part:
        task = self.tasks[number]
        take = f"-{task.take:03d}" if task.take else ""
        name = f"images/{task.mode}-{task.index:03d}{take}-{image_number}"
        edit = None if image_number else task.prompt.edit
        pixels = drawn_pixels(latent[None], edit, self.loaded)[0]
        about = {
            "seed": str(self.run.seed),
            "prompt": words(task.prompt.pieces),
            "checkpoint": self.run.checkpoint,
            "settings": json.dumps(self.run.settings, sort_keys=True),
            "document": f"{task.mode} {task.index}, sample {task.take}, picture {image_number}",
            "record": json.dumps(to_jsonable_python(self._basis(task)), sort_keys=True),
        }
        write_atomic(self.folder / f"{name}.png", encode_png(pixels, about))
        self.pictures[number, image_number] = pixels
        if not estimates:
            return _picture(f"{name}.png", pixels)
        frames = [*drawn_pixels(torch.stack(estimates), edit, self.loaded), pixels]
        write_atomic(self.folder / f"{name}.gif", encode_gif(frames))
        return _picture(f"{name}.png", pixels, f"{name}.gif")

    def _show_levels(self) -> None:
        done = sum(self._levels.values())
        total = len(self._levels)
        self.runtime.report(Progress("draw", int(100 * done / total), 100, f"% of {total} picture{'s' * (total > 1)}"))
        if done == total:
            self._levels.clear()

    def _report(self, number: int, **what: str) -> None:
        if self._reporter is not None:
            self._reporter.report(number, **what)


class _PartReporter:
    """Reports documents one after the other, though they grow together: what comes of a later one waits."""

    def __init__(self, tasks: dict[int, Task], runtime: Runtime) -> None:
        """tasks: by number, in the order of telling."""
        self._names = {number: _name(task) for number, task in tasks.items()}
        self._runtime = runtime
        self._waiting: dict[int, list[Passage]] = {number: [] for number in tasks}  # until they have ended

    def report(self, number: int, *, text: str = "", picture: str = "", ended: str = "", limit: str = "") -> None:
        self._waiting[number].append(Passage(self._names[number], text, picture, ended, limit))
        while self._waiting:
            first, passages = next(iter(self._waiting.items()))
            for passage in passages:
                self._runtime.report(passage)
            if not passages or not passages[-1].ended:
                passages.clear()
                return
            del self._waiting[first]


def words(pieces: Sequence[Piece]) -> str:
    """A prompt as text, <image> for each picture."""
    return "".join(piece.text if isinstance(piece, TextPiece) else "<image>" for piece in pieces)


def _name(task: Task) -> str:
    text = words(task.prompt.pieces) or "(no text)"
    return f"{task.index + 1}{f', sample {task.take + 1}' if task.take else ''}: {shortened(text, 60)}"


def _picture(name: str, pixels: Pixels, animation: str | None = None) -> Part:
    return Part(image=name, size=(pixels.shape[0], pixels.shape[1]), animation=animation)
