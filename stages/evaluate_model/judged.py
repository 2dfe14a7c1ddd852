"""The judge of the shapes world applied to what a model draws, writes, and makes up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stages.artifacts.latents import StoredDocument, StoredText, caption_of
from stages.coders.pixels import Pixels
from stages.core.errors import TfcliError
from stages.core.runtime import Runtime
from stages.core.seeds import derive_seed
from stages.evaluate_model.config import EvalConfig
from stages.generation.config import GenerationConfig
from stages.generation.engine import Engine
from stages.generation.heldout import heldout_documents, is_pair, pieces_of
from stages.generation.loading import LoadedModel
from stages.generation.prompts import ImagePiece, Output, Prompt, TextPiece
from stages.sources.shapes.judge import Seen, Verdict, claims_of, judge, judge_caption, see
from stages.sources.shapes.language import claims
from stages.sources.shapes.world import scene_from_json


@dataclass(frozen=True)
class Judged:
    """One judged document: what was asked or written, whether it is right, and the picture."""

    mode: str
    key: str
    text: str
    right: bool
    picture: Pixels | None

    def row(self) -> dict[str, Any]:
        return {"mode": self.mode, "key": self.key, "text": self.text, "right": self.right}

    def label(self) -> str:
        """What was asked or written, and what the judge finds in the picture: for the sheet of mistakes."""
        label = "written" if self.mode in _WRITTEN else "asked"
        seen = [] if self.picture is None else see(self.picture)
        found = ", ".join(f"{one.size} {one.colour} {one.shape} {_place(one)}" for one in seen)
        return f"{self.mode.replace('_', ' ')}; {label}: {self.text or 'nothing'}\nfound: {found or 'nothing'}"


_WRITTEN = ("image_to_text", "free", "continued")  # modes whose text is the model's own


def _place(seen: Seen) -> str:
    column, row = seen.cell
    return f"{('top', 'middle', 'bottom')[row]} {('left', 'centre', 'right')[column]}"


@dataclass(frozen=True)
class TaskScores:
    """Figures (shares between 0 and 1) and the documents behind them."""

    figures: dict[str, Any]
    judged: list[Judged]


def shapes_pairs(loaded: LoadedModel, new: str) -> list[StoredDocument]:
    """Held-out caption pairs of the shapes world in which a "scene" or a "thing" is new; empty for any other source."""
    pairs = (document for document in heldout_documents(loaded) if is_pair(document))
    return [pair for pair in pairs if isinstance(pair.labels, dict) and pair.labels.get("new") == new]


def shapes_edits(loaded: LoadedModel) -> list[StoredDocument]:
    """Held-out edits of the shapes world; empty for any other source."""
    found = (document for document in heldout_documents(loaded) if document.fixed_order)
    return [document for document in found if isinstance(document.labels, dict) and "edit" in document.labels]


def judge_edits(
    loaded: LoadedModel, edits: list[StoredDocument], config: GenerationConfig, seed: int, runtime: Runtime
) -> TaskScores:
    """Picture and instruction to picture: the share whose things are, in shape, colour, place and size, those of the scene that
    the instruction makes of the first: what was asked for is done, and nothing else."""
    prompts = [Prompt(pieces_of(document, loaded)[:-1], image_next=True) for document in edits]
    outputs = Engine(loaded, config, derive_seed(seed, "eval", "edit"), runtime).generate(prompts)
    after = [claims_of(scene_from_json(document.labels["scenes"][1])) for document in edits]
    drawn = generated_pictures(loaded, [latent_of(output) for output in outputs])
    truth = generated_pictures(loaded, [latent_of(pieces_of(document, loaded)[-1:]) for document in edits])
    verdicts, ceiling = (
        [judge(claimed, see(picture)) for claimed, picture in zip(after, pictures, strict=True)]
        for pictures in (drawn, truth)
    )
    right = [verdict.all_right for verdict in verdicts]
    kinds: dict[str, list[bool]] = {}
    for document, flag in zip(edits, right, strict=True):
        kinds.setdefault(document.labels["edit"], []).append(flag)
    figures = {
        "edit": mean_of(right),
        **{f"edit_{kind}": mean_of(flags) for kind, flags in sorted(kinds.items())},
        "edit_without_sizes": mean_of([judge_objects(verdict) for verdict in verdicts]),
        "edit_of_true_pictures": mean_of([verdict.all_right for verdict in ceiling]),
        "edit_count": len(edits),
    }
    texts = [segment.text for document in edits for segment in document.segments if isinstance(segment, StoredText)]
    judged = [
        Judged("edit", document.key, text, is_right, picture)
        for document, text, is_right, picture in zip(edits, texts, right, drawn, strict=True)
    ]
    return TaskScores(figures, judged)


def judge_drawings(
    loaded: LoadedModel, pairs: list[StoredDocument], config: GenerationConfig, seed: int, runtime: Runtime
) -> TaskScores:
    """Text to image: the share of drawn pictures with every object, colour and place of the caption right.

    The same judge on the true pictures after the autoencoder is reported too: the ceiling of what can be reached.
    """
    prompts = [Prompt((TextPiece(caption_of(document)),), image_next=True) for document in pairs]
    outputs = Engine(loaded, config, derive_seed(seed, "eval", "draw"), runtime).generate(prompts)
    drawn = generated_pictures(loaded, [latent_of(output) for output in outputs])
    truth = generated_pictures(loaded, [latent_of(pieces_of(document, loaded)) for document in pairs])
    verdicts = [verdict_of(caption_of(document), picture) for document, picture in zip(pairs, drawn, strict=True)]
    right = [judge_objects(verdict) for verdict in verdicts]
    ceiling = [verdict_of(caption_of(document), picture) for document, picture in zip(pairs, truth, strict=True)]
    figures = {
        "text_to_image": mean_of(right),
        **_by_number_of_things("text_to_image", pairs, right),
        "text_to_image_with_sizes": mean_of([verdict.all_right for verdict in verdicts]),
        "text_to_image_objects": mean_of([verdict.objects_right for verdict in verdicts]),
        "text_to_image_colours": mean_of([verdict.colours_right for verdict in verdicts]),
        "text_to_image_places": mean_of([verdict.places_right for verdict in verdicts]),
        "text_to_image_of_true_pictures": mean_of([judge_objects(verdict) for verdict in ceiling]),
        "text_to_image_count": len(pairs),
    }
    judged = [
        Judged("text_to_image", document.key, caption_of(document), is_right, picture)
        for document, is_right, picture in zip(pairs, right, drawn, strict=True)
    ]
    return TaskScores(figures, judged)


def judge_texts(
    loaded: LoadedModel, pairs: list[StoredDocument], config: GenerationConfig, seed: int, runtime: Runtime
) -> TaskScores:
    """Image to text: the share of captions that are understood and claim nothing false; and that name every object."""
    images = [tuple(piece for piece in pieces_of(d, loaded) if isinstance(piece, ImagePiece)) for d in pairs]
    prompts = [Prompt(image, max_images=0) for image in images]
    outputs = Engine(loaded, config, derive_seed(seed, "eval", "write"), runtime).generate(prompts)
    texts = ["".join(piece.text for piece in output.pieces if isinstance(piece, TextPiece)) for output in outputs]
    scenes = [scene_from_json(document.labels["scenes"][0]) for document in pairs]
    verdicts = [judge_caption(text, scene) for text, scene in zip(texts, scenes, strict=True)]
    right = [verdict.claims_true for verdict in verdicts]
    figures = {
        "image_to_text": mean_of(right),
        **_by_number_of_things("image_to_text", pairs, right),
        "image_to_text_complete": mean_of([verdict.claims_true and verdict.complete for verdict in verdicts]),
        "image_to_text_count": len(pairs),
    }
    pictures = generated_pictures(loaded, [latent_of(image) for image in images])
    judged = [
        Judged("image_to_text", document.key, text, is_right, picture)
        for document, text, is_right, picture in zip(pairs, texts, right, pictures, strict=True)
    ]
    return TaskScores(figures, judged)


def judge_free(loaded: LoadedModel, config: EvalConfig, seed: int, runtime: Runtime) -> TaskScores:
    """From nothing: the share of documents with one picture or more (BOI, image, EOI), ended by the model itself, and
    text that fits: the caption of a pair, or for a longer document the text before its first picture."""
    options = config.generation.model_copy(update={"temperature": config.free_temperature})
    engine = Engine(loaded, options, derive_seed(seed, "eval", "free"), runtime)
    outputs = engine.generate([Prompt(max_images=options.max_images) for _ in range(config.free)])
    judged = []
    for number, output in enumerate(outputs):
        latents = [piece.latent for piece in output.pieces if isinstance(piece, ImagePiece)]
        pictures = generated_pictures(loaded, latents[:1])
        text = _first_text(output)
        right = output.ended == "eos" and bool(len(pictures)) and judge_objects(verdict_of(text, pictures[0]))
        judged.append(Judged("free", f"free-{number:04d}", text, right, pictures[0] if len(pictures) else None))
    figures = {
        "free": mean_of([item.right for item in judged]),
        "free_with_picture_and_end": mean_of(
            [
                output.ended == "eos" and any(isinstance(piece, ImagePiece) for piece in output.pieces)
                for output in outputs
            ]
        ),
        "free_count": len(outputs),
    }
    return TaskScores(figures, judged)


def _by_number_of_things(name: str, pairs: list[StoredDocument], right: list[bool]) -> dict[str, float]:
    """The share apart for scenes of one, two and three things."""
    found: dict[int, list[bool]] = {}
    for pair, flag in zip(pairs, right, strict=True):
        found.setdefault(len(pair.labels["scenes"][0]), []).append(flag)
    return {f"{name}_of_{number}": mean_of(flags) for number, flags in sorted(found.items())}


def _first_text(output: Output) -> str:
    return next((piece.text for piece in output.pieces if isinstance(piece, TextPiece)), "")


def verdict_of(text: str, picture: Pixels) -> Verdict:
    return judge(claims(text), see(picture))


def judge_objects(verdict: Verdict) -> bool:
    return verdict.objects_right and verdict.colours_right and verdict.places_right


def latent_of(pieces: Any) -> torch.Tensor:
    pieces = pieces.pieces if isinstance(pieces, Output) else pieces
    for piece in pieces:
        if isinstance(piece, ImagePiece):
            return piece.latent
    why = "a document and the picture that it asks for are longer than the rows of the training"
    raise TfcliError("a held-out document cannot be judged", why=why, fix="train with a larger pack.row_length")


def generated_pictures(loaded: LoadedModel, latents: list[torch.Tensor]) -> list[Pixels]:
    pictures: list[Pixels] = []
    for start in range(0, len(latents), 64):
        pictures.extend(loaded.decode_pictures(torch.stack(latents[start : start + 64])))
    return pictures


def mean_of(flags: list[bool]) -> float:
    return round(sum(flags) / len(flags), 4) if flags else 0.0
