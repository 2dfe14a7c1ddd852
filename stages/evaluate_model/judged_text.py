"""The judge of texts about given pictures: those that the model writes, and those that it finds more likely."""

from __future__ import annotations

import re

from stages.artifacts.latents import StoredDocument, caption_of
from stages.evaluate_model.documents import scene_of
from stages.evaluate_model.judging import Evaluated, Judged, Shares, TaskScores, latent_of, text_of
from stages.generation.likelihood import text_log_likelihoods
from stages.generation.prompts import ImagePiece, Piece, Prompt
from stages.sources.shapes.claims import OPPOSITE
from stages.sources.shapes.judge import judge_caption


def judge_texts(model: Evaluated, pairs: list[StoredDocument]) -> TaskScores:
    """Image to text: the share of captions that are understood and claim nothing false; of those that also name every
    thing; and of those that are understood at all."""
    given = [_picture(model, pair) for pair in pairs]
    outputs = model.generate("write", [Prompt(pieces, max_images=0) for pieces in given])
    pictures = model.decode([latent_of(pieces) for pieces in given])
    shares, judged = Shares(), []
    for pair, output, picture in zip(pairs, outputs, pictures, strict=True):
        text, scene = text_of(output.pieces), scene_of(pair)
        verdict = judge_caption(text, scene)
        shares.add("image_to_text", verdict.claims_true)
        shares.add(f"image_to_text_of_{len(scene.things)}", verdict.claims_true)
        shares.add_aspect("image_to_text_complete", verdict.claims_true and verdict.complete)
        shares.add_aspect("image_to_text_understood", verdict.understood)
        judged.append(Judged("image_to_text", pair.key, text, verdict.claims_true, picture))
    return TaskScores(shares.figures(), judged)


def judge_relations(model: Evaluated, pairs: list[StoredDocument]) -> TaskScores:
    """The share of captions with a relation that are more likely, given their picture, than the same with the first relation
    turned around. pairs: of kind "related"."""
    texts = [caption_of(pair) for pair in pairs]
    given = [_picture(model, pair) for pair in pairs]
    true = text_log_likelihoods(model.loaded, list(zip(given, texts, strict=True)))
    false = text_log_likelihoods(model.loaded, list(zip(given, map(flipped, texts), strict=True)))
    pictures = model.decode([latent_of(pieces) for pieces in given])
    shares, judged = Shares(), []
    for pair, text, likely, unlikely, picture in zip(pairs, texts, true, false, pictures, strict=True):
        shares.add("relations_by_likelihood", likely > unlikely)
        judged.append(Judged("relations_by_likelihood", pair.key, text, likely > unlikely, picture))
    return TaskScores(shares.figures(), judged)


def flipped(text: str) -> str:
    """The text with its first relation turned around."""
    found, count = re.subn("|".join(OPPOSITE), lambda match: OPPOSITE[match[0]], text, count=1)
    assert count == 1, text
    return found


def _picture(model: Evaluated, pair: StoredDocument) -> tuple[Piece, ...]:
    return tuple(piece for piece in model.pieces(pair) if isinstance(piece, ImagePiece))
