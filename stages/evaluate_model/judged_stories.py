"""The judge of the shapes world on longer documents (continued, and changed by an instruction) and on inpainting."""

from __future__ import annotations

import numpy as np
import torch

from stages.artifacts.latents import StoredDocument, StoredImage, StoredText, caption_of
from stages.coders.pixels import Pixels
from stages.core.runtime import Runtime
from stages.core.seeds import derive_seed
from stages.evaluate_model.judged import (
    Judged,
    TaskScores,
    generated_pictures,
    judge_objects,
    latent_of,
    mean_of,
    verdict_of,
)
from stages.generation.config import GenerationConfig
from stages.generation.engine import Engine
from stages.generation.heldout import heldout_documents, pieces_of
from stages.generation.loading import LoadedModel
from stages.generation.prompts import ImageEdit, ImagePiece, Output, Prompt, TextPiece
from stages.sources.shapes.judge import judge, see
from stages.sources.shapes.language import ClaimedThing, Claims, after_turn, claims


def shapes_stories(loaded: LoadedModel) -> list[StoredDocument]:
    """Held-out stories of the shapes world: text and picture in turn, of one thing that changes; empty for other sources."""
    found = (document for document in heldout_documents(loaded) if document.fixed_order)
    return [
        story for story in found if isinstance(story.labels, dict) and "scenes" in story.labels and _is_story(story)
    ]


def judge_continued(
    loaded: LoadedModel, stories: list[StoredDocument], config: GenerationConfig, seed: int, runtime: Runtime
) -> TaskScores:
    """First text and picture are given, and the model goes on as it likes: the share of documents that it ends by itself, of
    at least one turn and picture more, with every text a turn that the world knows and every picture what the texts made of
    the thing."""
    prompts = [Prompt(pieces_of(story, loaded)[:2], max_images=config.max_images) for story in stories]
    outputs = Engine(loaded, config, derive_seed(seed, "eval", "continue"), runtime).generate(prompts)
    judged, turns = [], []
    for story, output in zip(stories, outputs, strict=True):
        flags, last = _follow(loaded, _first_thing(story), output)
        turns += flags
        right = output.ended == "eos" and bool(flags) and all(flags)
        text = "".join(piece.text for piece in output.pieces if isinstance(piece, TextPiece))
        judged.append(Judged("continued", story.key, text, right, last))
    figures = {
        "continued": mean_of([item.right for item in judged]),
        "continued_pictures": mean_of(turns),
        "continued_ended": mean_of([output.ended == "eos" for output in outputs]),
        "continued_count": len(stories),
    }
    return TaskScores(figures, judged)


def judge_turned(
    loaded: LoadedModel, stories: list[StoredDocument], config: GenerationConfig, seed: int, runtime: Runtime
) -> TaskScores:
    """Editing within a story: first text, picture and a turn ("then it turns blue: ") are given, the next picture is drawn.
    The share of pictures whose thing changed as the instruction says and is otherwise as it was; by what changes."""
    prompts = [Prompt(pieces_of(story, loaded)[:3], image_next=True) for story in stories]
    outputs = Engine(loaded, config, derive_seed(seed, "eval", "turn"), runtime).generate(prompts)
    drawn = generated_pictures(loaded, [latent_of(output) for output in outputs])
    judged: list[Judged] = []
    kinds: dict[str, list[bool]] = {}
    for story, picture in zip(stories, drawn, strict=True):
        turn = _texts(story)[1]
        thing = after_turn(_first_thing(story), turn)
        right = thing is not None and judge(Claims((thing,)), see(picture)).all_right
        judged.append(Judged("turned", story.key, turn, right, picture))
        kinds.setdefault({"turns": "colour", "becomes": "size", "moves": "place"}[turn.split()[2]], []).append(right)
    figures = {
        "turned": mean_of([item.right for item in judged]),
        **{f"turned_{kind}": mean_of(flags) for kind, flags in sorted(kinds.items())},
        "turned_count": len(stories),
    }
    return TaskScores(figures, judged)


def judge_inpainted(
    loaded: LoadedModel, pairs: list[StoredDocument], config: GenerationConfig, seed: int, runtime: Runtime
) -> TaskScores:
    """The right half of true pictures that have a thing at the right is drawn again from the caption: the share of pictures
    with every object, colour and place right; without the caption, as a floor; and how far the left half moved, in mean
    absolute difference of a pixel (0 to 255) from the true picture after the autoencoder, beyond the border of the hole."""
    latents = [latent_of(pieces_of(pair, loaded)) for pair in pairs]
    width = loaded.latent_shape[2]
    hole_hw = torch.zeros(loaded.latent_shape[1:], dtype=torch.bool)
    hole_hw[:, width // 2 :] = True
    truth = generated_pictures(loaded, latents)
    figures: dict[str, float] = {}
    judged: list[Judged] = []
    for name, texts in (
        ("inpainted", [caption_of(pair) for pair in pairs]),
        ("inpainted_without_text", [""] * len(pairs)),
    ):
        prompts = [
            Prompt((TextPiece(text),) if text else (), image_next=True, edit=ImageEdit(latent, hole_hw))
            for text, latent in zip(texts, latents, strict=True)
        ]
        outputs = Engine(loaded, config, derive_seed(seed, "eval", "inpaint"), runtime).generate(prompts)
        drawn = generated_pictures(loaded, [latent_of(output) for output in outputs])
        right = [
            judge_objects(verdict_of(caption_of(pair), picture)) for pair, picture in zip(pairs, drawn, strict=True)
        ]
        figures[name] = mean_of(right)
        if name == "inpainted":
            figures["inpainted_kept_error"] = _moved(drawn, truth)
            rows = zip(pairs, texts, right, drawn, strict=True)
            judged = [Judged(name, pair.key, text, flag, picture) for pair, text, flag, picture in rows]
    return TaskScores({**figures, "inpainted_count": len(pairs)}, judged)


def with_thing_at_right(pairs: list[StoredDocument]) -> list[StoredDocument]:
    """The pairs whose picture has a thing in the right column of the world."""
    return [pair for pair in pairs if any(thing["column"] == 2 for thing in pair.labels["scenes"][0])]


def _is_story(document: StoredDocument) -> bool:
    kinds = [type(segment) for segment in document.segments]
    return len(kinds) > 3 and kinds[:4] == [StoredText, StoredImage, StoredText, StoredImage]


def _texts(story: StoredDocument) -> list[str]:
    return [segment.text for segment in story.segments if isinstance(segment, StoredText)]


def _first_thing(story: StoredDocument) -> ClaimedThing:
    """The thing of the first picture; of what the text leaves open (its size) the truth."""
    claimed = claims(_texts(story)[0])
    assert claimed is not None
    (thing,) = claimed.things
    (true,) = story.labels["scenes"][0]
    return ClaimedThing(thing.shape, thing.colour, true["size"], thing.place)


def _follow(loaded: LoadedModel, thing: ClaimedThing, output: Output) -> tuple[list[bool], Pixels | None]:
    """Whether each picture is what the turns before it made of the thing; and the last picture. A turn that is not
    understood, and a picture without one, make all that follows wrong."""
    flags, picture = [], None
    now: ClaimedThing | None = thing
    has_instruction = False
    for piece in output.pieces:
        if isinstance(piece, TextPiece):
            now, has_instruction = (None if now is None else after_turn(now, piece.text)), True
            continue
        assert isinstance(piece, ImagePiece)
        picture = generated_pictures(loaded, [piece.latent])[0]
        flags.append(has_instruction and now is not None and judge(Claims((now,)), see(picture)).all_right)
        has_instruction = False
    return flags, picture


def _moved(drawn: list[Pixels], truth: list[Pixels]) -> float:
    """Of the left third: the decoder looks over the border of the hole."""
    third = truth[0].shape[1] // 3
    pairs = zip(drawn, truth, strict=True)
    errors = [np.abs(one[:, :third].astype(float) - other[:, :third]).mean() for one, other in pairs]
    return round(float(np.mean(errors)), 2)
