"""The judge of drawings: from a caption, from an instruction, into a hole, and without any text."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import torch

from stages.artifacts.latents import StoredDocument, caption_of
from stages.coders.pixels import Pixels
from stages.evaluate_model.documents import kind_of, scene_of, texts_of
from stages.evaluate_model.judging import Evaluated, Judged, Shares, TaskScores, latent_of, mean_of, verdict_of
from stages.generation.prompts import ImageEdit, Prompt, TextPiece
from stages.sources.shapes.claims import ClaimedThing, Claims, claims
from stages.sources.shapes.judge import claim_of, exactly_once, judge, see
from stages.sources.shapes.world import Scene, Thing

_NOT_OPEN = ("placed", "related")  # kinds of captions with figures of their own; all others leave something else open


def judge_drawings(model: Evaluated, pairs: list[StoredDocument]) -> TaskScores:
    """Text to image: the share of drawn pictures of which all that the caption claims is true, sizes aside.

    The same judge on the true pictures after the autoencoder is reported too: the ceiling of what can be reached.
    """
    prompts = [Prompt((TextPiece(caption_of(pair)),), image_next=True) for pair in pairs]
    drawn = model.draw("draw", prompts)
    truth = model.decode([latent_of(model.pieces(pair)) for pair in pairs])
    shares, judged = Shares(), []
    for pair, picture, true_picture in zip(pairs, drawn, truth, strict=True):
        text, kind, claimed, seen = caption_of(pair), kind_of(pair), claims(caption_of(pair)), see(picture)
        verdict = judge(claimed, seen)
        once = exactly_once(claimed, seen)
        shares.add("text_to_image", verdict.right)
        shares.add(f"text_to_image_{kind}", verdict.right)
        shares.add("text_to_image_open", *([] if kind in _NOT_OPEN else [verdict.right]))
        shares.add(f"text_to_image_of_{len(scene_of(pair).things)}", verdict.right)
        shares.add_aspect("text_to_image_with_sizes", verdict.all_right)
        shares.add_aspect("text_to_image_objects", verdict.objects_right)
        shares.add_aspect("text_to_image_colours", verdict.colours_right)
        shares.add_aspect("text_to_image_places", verdict.places_right)
        shares.add_aspect("text_to_image_relations", verdict.relations_right)
        shares.add_aspect("text_to_image_of_true_pictures", verdict_of(text, true_picture).right)
        shares.add("exactly_once", *once)
        shares.add(f"exactly_once_{kind}", *once)
        judged.append(Judged("text_to_image", pair.key, text, verdict.right, picture))
    return TaskScores(shares.figures(), judged)


def judge_unconditional(model: Evaluated, count: int, most_things: int) -> TaskScores:
    """Pictures drawn without any text: how often they show so many things, and how far that is, in total variation, from the
    world's law, by which each number from 1 to most_things is equally likely.

    Right is a picture with one of these numbers of things, all with a shape and a colour that the judge knows.
    """
    drawn = model.draw("unconditional", [Prompt(image_next=True)] * count)
    judged, numbers, unclear = [], [], []
    for number, picture in enumerate(drawn):
        seen = see(picture)
        numbers.append(len(seen))
        unclear.append(any("unclear" in (thing.shape, thing.colour) for thing in seen))
        right = 1 <= len(seen) <= most_things and not unclear[-1]
        judged.append(Judged("unconditional", f"unconditional-{number:04d}", "", right, picture))
    shown = Counter(numbers)
    shares = {number: shown[number] / count for number in range(max(most_things, *numbers) + 1)}
    law = {number: 1 / most_things if 1 <= number <= most_things else 0 for number in shares}
    figures = {
        **{f"unconditional_of_{number}": round(share, 4) for number, share in shares.items()},
        "unconditional_number_tv": round(sum(abs(shares[number] - law[number]) for number in shares) / 2, 4),
        "unconditional_unclear": mean_of(unclear),
        "unconditional_count": count,
    }
    return TaskScores(figures, judged)


def judge_edits(model: Evaluated, edits: list[StoredDocument]) -> TaskScores:
    """Picture and instruction to picture: the share whose things are, in shape, colour, size and place, those of the scene that
    the instruction makes of the first: what was asked for is done, and nothing else."""
    drawn = model.draw("edit", [Prompt(model.pieces(edit)[:-1], image_next=True) for edit in edits])
    truth = model.decode([latent_of(model.pieces(edit)[-1:]) for edit in edits])
    shares, judged = Shares(), []
    for edit, picture, true_picture in zip(edits, drawn, truth, strict=True):
        claimed = _claims_after(scene_of(edit, 0), scene_of(edit, 1))
        verdict = judge(claimed, see(picture))
        shares.add("edit", verdict.all_right)
        shares.add(f"edit_{edit.labels['edit']}", verdict.all_right)
        shares.add_aspect("edit_without_sizes", verdict.right)
        shares.add_aspect("edit_of_true_pictures", judge(claimed, see(true_picture)).all_right)
        judged.append(Judged("edit", edit.key, "".join(texts_of(edit)), verdict.all_right, picture, claimed))
    return TaskScores(shares.figures(), judged)


def judge_inpainted(model: Evaluated, pairs: list[StoredDocument]) -> TaskScores:
    """The right half of true pictures that have a thing at the right is drawn again from the caption: the share of pictures of
    which the caption is true; without the caption, as a floor; and how far the left half moved, in mean absolute difference of a
    pixel (0 to 255) from the true picture after the autoencoder, beyond the border of the hole."""
    latents = [latent_of(model.pieces(pair)) for pair in pairs]
    width = model.loaded.latent_shape[2]
    hole_hw = torch.zeros(model.loaded.latent_shape[1:], dtype=torch.bool)
    hole_hw[:, width // 2 :] = True
    shares, judged = Shares(), []
    for name in ("inpainted", "inpainted_without_text"):
        prompts = []
        for pair, latent in zip(pairs, latents, strict=True):
            given = (TextPiece(caption_of(pair)),) if name == "inpainted" else ()
            prompts.append(Prompt(given, image_next=True, edit=ImageEdit(latent, hole_hw)))
        drawn = model.draw("inpaint", prompts)
        right = [verdict_of(caption_of(pair), picture).right for pair, picture in zip(pairs, drawn, strict=True)]
        if name == "inpainted":
            shares.add(name, *right)
            moved = _moved(drawn, model.decode(latents))
            rows = zip(pairs, right, drawn, strict=True)
            judged = [Judged(name, pair.key, caption_of(pair), flag, picture) for pair, flag, picture in rows]
        else:
            shares.add_aspect(name, *right)
    return TaskScores({**shares.figures(), "inpainted_kept_error": moved}, judged)


def _claims_after(before: Scene, after: Scene) -> Claims:
    """Of a scene that an instruction made of another: things that stay are where they were; one that moved or is new is in its
    region, which is all that the instruction says."""
    still = {(thing.x, thing.y) for thing in before.things}

    def claimed(thing: Thing) -> ClaimedThing:
        claim = claim_of(thing)
        return claim if (thing.x, thing.y) in still else replace(claim, at=None, place=thing.region)

    return Claims(tuple(claimed(thing) for thing in after.things))


def _moved(drawn: list[Pixels], truth: list[Pixels]) -> float:
    """Of the left third: the decoder looks over the border of the hole."""
    third = truth[0].shape[1] // 3
    pairs = zip(drawn, truth, strict=True)
    errors = [np.abs(one[:, :third].astype(float) - other[:, :third]).mean() for one, other in pairs]
    return round(float(np.mean(errors)), 2)
