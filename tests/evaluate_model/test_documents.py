"""Which held-out documents are judged, and in which order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from stages.artifacts.latents import StoredDocument
from stages.evaluate_model import documents
from stages.evaluate_model.documents import (
    kind_of,
    most_things,
    scene_of,
    shapes_edits,
    shapes_pairs,
    shapes_stories,
    spread_over_kinds,
    with_thing_at_right,
)
from tests.evaluate_model.world import held

OLD = [[{"shape": "circle", "colour": "red", "size": "small", "column": 0, "row": 0, "x": 0.1, "y": 0.1}]]
FOREIGN: list[Any] = [  # of other sources, and of the first version of the world, which had cells
    None,
    "claim",
    {"new": "claim"},
    {"new": "claim", "caption": "placed", "scenes": OLD},
    {"new": "claim", "caption": "placed", "scenes": "none"},
    {"new": "claim", "caption": "placed", "scenes": []},
    {"edit": "colour", "scenes": OLD},
    {"story": "turns", "scenes": [*OLD, *OLD]},
]
LOADED: Any = SimpleNamespace()


def of(kind: str) -> list[StoredDocument]:
    return [each.document for each in held(kind)]


def test_documents_are_chosen_by_what_is_new_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, stories, edits = of("new-claim"), of("heldout-story"), of("heldout-edit")
    foreign = [replace(pairs[0], labels=labels) for labels in FOREIGN]
    every = [*stories, *foreign, *edits, *pairs, *of("alike"), *of("new-thing")]
    monkeypatch.setattr(documents, "heldout_documents", lambda _loaded: iter(every))
    assert shapes_pairs(LOADED, "claim") == spread_over_kinds(pairs)
    assert shapes_pairs(LOADED, "thing") == spread_over_kinds(of("new-thing"))
    assert shapes_pairs(LOADED, None) == spread_over_kinds(of("alike"))
    assert shapes_stories(LOADED) == stories
    assert shapes_edits(LOADED) == edits


def test_any_number_from_the_start_is_spread_evenly_over_the_kinds() -> None:
    (pair, *_) = of("new-claim")
    counts = {"placed": 9, "related": 4, "exact": 1}
    pairs = [
        replace(pair, key=f"{kind}-{number}", labels={"caption": kind})
        for kind, count in counts.items()
        for number in range(count)
    ]
    chosen = spread_over_kinds(pairs)
    assert sorted(each.key for each in chosen) == sorted(each.key for each in pairs)
    for length in range(len(chosen) + 1):
        found = Counter(map(kind_of, chosen[:length]))
        fewest = (
            min(found[kind] for kind, count in counts.items() if found[kind] < count) if length < len(chosen) else 9
        )
        assert max(found.values(), default=0) <= fewest + 1
    for kind in counts:
        assert [each.key for each in chosen if kind_of(each) == kind] == [
            each.key for each in pairs if kind_of(each) == kind
        ]


def test_the_right_half_is_drawn_again_only_where_nothing_is_across_the_middle() -> None:
    pairs = [*of("new-claim"), *of("alike")]
    chosen = with_thing_at_right(pairs)
    assert chosen
    for pair in pairs:
        across = [thing.x for thing in scene_of(pair).things]
        expected = kind_of(pair) == "placed" and max(across) > 2 / 3 and not any(0.3 < x < 0.7 for x in across)
        assert (pair in chosen) == expected


def test_the_most_things_of_the_world_are_seen_in_its_pairs() -> None:
    assert most_things(of("new-claim")) == 4
