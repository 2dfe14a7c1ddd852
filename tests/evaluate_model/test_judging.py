"""What all judges share: labels of mistakes, figures and their counts, and pictures of any number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.core.errors import TfcliError
from stages.evaluate_model.judging import Judged, Shares, latent_of, text_of
from stages.generation.prompts import ImagePiece, TextPiece
from stages.sources.shapes.claims import ClaimedThing, Claims
from stages.sources.shapes.drawing import draw
from stages.sources.shapes.world import Scene
from tests.evaluate_model.world import SIDE, World, thing

HEXAGON = thing("hexagon", "red", 0.2, 0.8)


def test_a_mistake_says_what_was_asked_what_is_right_and_what_was_found() -> None:
    drawn = draw(Scene((thing("square", "blue", 0.5, 0.5, "small"), HEXAGON)), SIDE)
    expected = Claims(
        (ClaimedThing("circle", "red", "large", at=(0.1, 0.1)), ClaimedThing("cross", "cyan", place="right"))
    )
    label = Judged("turned_two", "key", "then the first ...", False, drawn, expected).label()
    assert label.split("\n") == [
        "turned two; asked: then the first ...",
        "right: large red circle top-left, cyan cross right",
        "found: large red unclear thing bottom-left, small blue square center",
    ]
    assert Judged("image_to_text", "key", "", False, None).label() == "image to text; written: nothing\nfound: nothing"


def test_figures_have_their_counts_and_aspects_have_not() -> None:
    shares = Shares()
    shares.add("a", True)
    shares.add("a", False, True)
    shares.add("none")
    shares.add_aspect("a_again", False)
    assert shares.figures() == {"a": 0.6667, "a_count": 3, "a_again": 0.0}


def test_any_number_of_pictures_is_decoded_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model = World("alike", monkeypatch, 1).model
    latents = [torch.full((3, 2, 2), number) for number in range(150)]
    assert [int(np.unique(picture)[0]) for picture in model.decode(latents)] == list(range(150))
    assert model.decode([]) == []


def test_the_first_image_and_all_texts_of_an_output() -> None:
    first, second = (ImagePiece(torch.full((1, 2, 2), number)) for number in range(2))
    pieces = [TextPiece("a "), first, TextPiece("b"), second]
    assert latent_of(pieces) is first.latent
    assert text_of(pieces) == "a b"
    with pytest.raises(TfcliError, match="a held-out document cannot be judged"):
        latent_of([TextPiece("a")])
