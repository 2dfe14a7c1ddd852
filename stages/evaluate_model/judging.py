"""What all judges share: the model that they ask, the verdicts that they return, and how figures are named and counted.

A figure is a share between 0 and 1, rounded; next to a figure `name` is `name_count`, how many verdicts it is the mean of, unless
it is another aspect of the same documents. A figure without verdicts is absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stages.artifacts.latents import StoredDocument
from stages.coders.pixels import Pixels
from stages.core.errors import TfcliError
from stages.core.runtime import Runtime
from stages.core.seeds import derive_seed
from stages.generation.config import GenerationConfig
from stages.generation.engine import Engine
from stages.generation.heldout import pieces_of
from stages.generation.loading import LoadedModel
from stages.generation.prompts import ImagePiece, Output, Piece, Prompt, TextPiece
from stages.generation.sharing import Generators
from stages.sources.shapes.claims import ClaimedThing, Claims, claims
from stages.sources.shapes.judge import Seen, Verdict, judge, see
from stages.sources.shapes.world import region_of

_DECODED = 64  # pictures at a time
_WRITTEN = ("image_to_text", "free", "continued")  # modes whose text is the model's own


@dataclass(frozen=True)
class Judged:
    """One judged document: what was asked or written, whether it is right, the picture, and what would be right where the text
    does not say."""

    mode: str
    key: str
    text: str
    right: bool
    picture: Pixels | None
    expected: Claims | None = None

    def row(self) -> dict[str, Any]:
        return {"mode": self.mode, "key": self.key, "text": self.text, "right": self.right}

    def label(self) -> str:
        """What was asked or written, and what the judge finds in the picture: for the sheet of mistakes."""
        lines = [
            f"{self.mode.replace('_', ' ')}; {'written' if self.mode in _WRITTEN else 'asked'}: {self.text or 'nothing'}"
        ]
        if self.expected is not None:
            lines.append(f"right: {_listed(self.expected.things)}")
        lines.append(f"found: {_listed([] if self.picture is None else see(self.picture))}")
        return "\n".join(lines)


def _listed(things: Sequence[Seen | ClaimedThing]) -> str:
    return ", ".join(map(_named, things)) or "nothing"


def _named(thing: Seen | ClaimedThing) -> str:
    if isinstance(thing, Seen):
        region = thing.region
    else:
        region = (thing.place or "") if thing.at is None else region_of(*thing.at)
    words = [word for word in (thing.size, thing.colour, thing.shape) if word not in (None, "unclear")]
    return " ".join([*words, *(["unclear thing"] if "unclear" in (thing.shape, thing.colour) else []), region])


@dataclass(frozen=True)
class TaskScores:
    """Figures and the documents behind them."""

    figures: dict[str, Any]
    judged: list[Judged]


@dataclass(frozen=True)
class Evaluated:
    """The model that is judged, how it generates, and the seed of all that it draws."""

    loaded: LoadedModel
    generation: GenerationConfig
    seed: int
    runtime: Runtime
    generators: Generators | None = None  # processes that share the documents; None: this one alone

    def generate(self, task: str, prompts: Sequence[Prompt]) -> list[Output]:
        """The only place where judges generate. task: names the random draws, so that no judge depends on another."""
        seed = derive_seed(self.seed, "eval", task)
        if self.generators is not None:
            return self.generators.generate(self.generation, seed, prompts)
        return Engine(self.loaded, self.generation, seed, self.runtime).generate(prompts)

    def draw(self, task: str, prompts: Sequence[Prompt]) -> list[Pixels]:
        """One picture for each prompt, all of which ask for one next."""
        return self.decode([latent_of(output.pieces) for output in self.generate(task, prompts)])

    def pieces(self, document: StoredDocument) -> tuple[Piece, ...]:
        return pieces_of(document, self.loaded)

    def decode(self, latents: Sequence[torch.Tensor]) -> list[Pixels]:
        pictures: list[Pixels] = []
        for start in range(0, len(latents), _DECODED):
            pictures.extend(self.loaded.decode_pictures(torch.stack(list(latents[start : start + _DECODED]))))
        return pictures


class Shares:
    """Verdicts collected by the name of their figure."""

    def __init__(self) -> None:
        self.flags: dict[str, list[bool]] = {}
        self.aspects: set[str] = set()

    def add(self, name: str, *flags: bool) -> None:
        self.flags.setdefault(name, []).extend(flags)

    def add_aspect(self, name: str, *flags: bool) -> None:
        """Other verdicts on the documents of a figure, whose count it has."""
        self.aspects.add(name)
        self.add(name, *flags)

    def figures(self) -> dict[str, Any]:
        """The share, and but for aspects the count, of each figure with a verdict."""
        found: dict[str, Any] = {}
        for name, flags in sorted(self.flags.items()):
            if flags:
                found[name] = mean_of(flags)
                if name not in self.aspects:
                    found[f"{name}_count"] = len(flags)
        return found


def mean_of(flags: Sequence[bool]) -> float:
    return round(sum(flags) / len(flags), 4)


def verdict_of(text: str, picture: Pixels) -> Verdict:
    return judge(claims(text), see(picture))


def latent_of(pieces: Iterable[Piece]) -> torch.Tensor:
    """The latent of the first image. Raises TfcliError where there is none."""
    for piece in pieces:
        if isinstance(piece, ImagePiece):
            return piece.latent
    why = "a document and the picture that it asks for are longer than the rows of the training"
    raise TfcliError("a held-out document cannot be judged", why=why, fix="train with a larger pack.row_length")


def text_of(pieces: Iterable[Piece]) -> str:
    """All texts of an output, joined."""
    return "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))
