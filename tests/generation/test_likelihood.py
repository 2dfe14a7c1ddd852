"""Log-likelihoods of texts against the dense forward pass, one document and one token at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from stages.generation.config import GenerationConfig
from stages.generation.layout import TokenSequence
from stages.generation.likelihood import Asked, text_log_likelihoods
from stages.generation.prompts import ImagePiece, Piece, TextPiece
from stages.generation.reference import Reference
from tests.generation.trained import EOS, picture, trained_model

TOLERANCE = 1e-4  # float32 sums of up to 6 log-probabilities of magnitude 10, in another order of operations


@pytest.fixture(scope="module")
def trained() -> Any:
    return trained_model()


def image(letter: int) -> ImagePiece:
    return ImagePiece(picture(letter, torch.Generator().manual_seed(letter)))


def asked() -> list[Asked]:
    wide = torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(6))
    return [
        ((image(3),), "d"),
        ((image(3),), "abc"),
        ((), "b"),
        ((TextPiece("a"), image(0)), "b"),
        ((TextPiece("c"),), ""),
        ((ImagePiece(wide), image(1)), "dcbad"),
        ((image(1), TextPiece("b"), image(2)), "c"),
    ]


@torch.inference_mode()
def directly(loaded: Any, pieces: Sequence[Piece], text: str) -> float:
    """Token by token: the whole sequence so far through the dense mask, and the log-probability of the one that comes."""
    reference = Reference(loaded, GenerationConfig(), 0)
    sequence, total = reference.builder.build(pieces), 0.0
    for token in [*loaded.text.encode(text), EOS]:
        hidden_ND = reference._outputs(sequence, []).hidden_ND
        total += float(loaded.model.text_head(hidden_ND[-1]).log_softmax(-1)[token])
        sequence = TokenSequence((*sequence.ids, token), sequence.images)
    return total


def test_as_token_by_token_without_a_batch(trained: Any) -> None:
    expected = [directly(trained, pieces, text) for pieces, text in asked()]
    assert text_log_likelihoods(trained, asked()) == pytest.approx(expected, abs=TOLERANCE)
    assert max(expected) > -1  # the model has learnt some of it, and not the rest
    assert min(expected) < -10


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_neither_order_nor_batch_matters(trained: Any, batch_size: int) -> None:
    expected = text_log_likelihoods(trained, asked())
    order = [4, 2, 6, 0, 5, 1, 3]
    found = text_log_likelihoods(trained, [asked()[number] for number in order], batch_size)
    assert found == pytest.approx([expected[number] for number in order], abs=TOLERANCE)


def test_the_letter_of_a_picture_is_likelier_than_others(trained: Any) -> None:
    for letter in range(4):
        right, wrong = text_log_likelihoods(
            trained, [((image(letter),), "abcd"[number % 4]) for number in (letter, letter + 1)]
        )
        assert right > wrong + 1


def test_nothing_asked_is_nothing_found(trained: Any) -> None:
    assert text_log_likelihoods(trained, []) == []
