"""Which held-out documents of the shapes world are judged. All are empty for other sources, which have no such labels."""

from __future__ import annotations

from dataclasses import fields
from itertools import zip_longest
from typing import Any

from stages.artifacts.latents import StoredDocument, StoredText
from stages.generation.heldout import heldout_documents, is_pair
from stages.generation.loading import LoadedModel
from stages.sources.shapes.source import New
from stages.sources.shapes.world import Scene, Thing, scene_from_json

_THING = {field.name for field in fields(Thing)}
_MIDDLE = 0.2  # a thing whose centre is closer to the middle of the picture may reach over it


def shapes_pairs(loaded: LoadedModel, new: New | None) -> list[StoredDocument]:
    """Held-out caption pairs in which a "claim" or a "thing" is new, or None for those that are like training; spread over the
    kinds of captions."""
    pairs = (document for document in heldout_documents(loaded) if is_pair(document) and _has(document, "caption"))
    return spread_over_kinds([pair for pair in pairs if pair.labels.get("new", "") == new])


def shapes_stories(loaded: LoadedModel) -> list[StoredDocument]:
    """Held-out stories: text and picture in turn."""
    return [document for document in heldout_documents(loaded) if _has(document, "story")]


def shapes_edits(loaded: LoadedModel) -> list[StoredDocument]:
    """Held-out edits: a picture, an instruction, and the picture that follows from it."""
    return [document for document in heldout_documents(loaded) if _has(document, "edit")]


def spread_over_kinds(pairs: list[StoredDocument]) -> list[StoredDocument]:
    """The first of each kind of caption, the second of each, and so on, so that any number from the start is spread evenly over
    the kinds, as far as there are pairs of a kind."""
    by_kind: dict[str, list[StoredDocument]] = {}
    for pair in pairs:
        by_kind.setdefault(kind_of(pair), []).append(pair)
    rounds = zip_longest(*(by_kind[kind] for kind in sorted(by_kind)))
    return [pair for each in rounds for pair in each if pair is not None]


def with_thing_at_right(pairs: list[StoredDocument]) -> list[StoredDocument]:
    """Pairs whose caption names all places and whose picture has a thing in the right third and none across the middle: what is
    right of the middle can be drawn again from the caption."""
    return [pair for pair in pairs if kind_of(pair) == "placed" and _can_be_halved(scene_of(pair))]


def with_relation(pairs: list[StoredDocument]) -> list[StoredDocument]:
    """Pairs whose caption is one of relations."""
    return [pair for pair in pairs if kind_of(pair) == "related"]


def most_things(pairs: list[StoredDocument]) -> int:
    """The most things in any of their pictures: the world draws each number from 1 to its most equally often, so that a few dozen
    pairs show which that is."""
    return max(len(scene_of(pair).things) for pair in pairs)


def kind_of(pair: StoredDocument) -> str:
    """The kind of its caption."""
    return str(pair.labels["caption"])


def scene_of(document: StoredDocument, number: int = 0) -> Scene:
    """The truth about one of its pictures."""
    return scene_from_json(document.labels["scenes"][number])


def texts_of(document: StoredDocument) -> list[str]:
    return [segment.text for segment in document.segments if isinstance(segment, StoredText)]


def _can_be_halved(scene: Scene) -> bool:
    across = [thing.x for thing in scene.things]
    return max(across) > 2 / 3 and all(abs(x - 0.5) >= _MIDDLE for x in across)


def _has(document: StoredDocument, label: str) -> bool:
    """Whether the document is of this world, and of the kind that has the label. Of other sources, and of earlier versions of the
    world, the labels say other things."""
    labels = document.labels
    return isinstance(labels, dict) and label in labels and _are_scenes(labels.get("scenes"))


def _are_scenes(found: Any) -> bool:
    if not isinstance(found, list) or not found:
        return False
    return all(isinstance(rows, list) and all(map(_is_thing, rows)) for rows in found)


def _is_thing(row: Any) -> bool:
    return isinstance(row, dict) and set(row) == _THING
