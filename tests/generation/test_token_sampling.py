"""Laws of sampling a token and of stop strings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.generation.config import GenerationConfig
from stages.generation.state import TextRun
from stages.generation.token_sampling import (
    TokenPosition,
    filtered,
    min_p,
    penalised,
    sample_token,
    sample_tokens,
    top_k,
    top_p,
)

LOGITS = torch.randn(40, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2
PROBABILITIES = LOGITS.softmax(-1)


def kept(logits: torch.Tensor) -> set[int]:
    return set(torch.isfinite(logits).nonzero()[:, 0].tolist())


def counts(config: GenerationConfig, number: int = 2000) -> torch.Tensor:
    """The share of each id over evenly spread random numbers."""
    logits = filtered(LOGITS, config)
    found = [sample_token(logits, (i + 0.5) / number) for i in range(number)]
    return torch.bincount(torch.tensor(found), minlength=len(LOGITS)) / number


def sampled_at(*positions: tuple[int, int], seed: int = 0, **config: Any) -> list[int]:
    rows = LOGITS.repeat(len(positions), 1)
    return sample_tokens(rows, [TokenPosition(*position) for position in positions], GenerationConfig(**config), seed)


def test_greedy_is_the_most_likely_and_top_k_of_one_is_greedy() -> None:
    best, positions = int(LOGITS.argmax()), [(0, position) for position in range(20)]
    assert set(sampled_at(*positions)) == {best}
    assert set(sampled_at(*positions, temperature=1.0, top_k=1)) == {best}
    assert set(sampled_at(*positions, temperature=2.0, min_p=0.999)) == {best}
    assert set(sampled_at(*positions, temperature=1.0, top_p=1e-9)) == {best}
    assert len(set(sampled_at(*positions, temperature=1.0))) > 3


def test_sampled_ids_follow_the_probabilities_at_every_temperature() -> None:
    for temperature in (0.5, 1.0, 3.0):
        found = counts(GenerationConfig(temperature=temperature))
        assert torch.allclose(found.double(), (LOGITS / temperature).softmax(-1), atol=1e-3)


@pytest.mark.parametrize("k", [1, 3, 39, 40, 1000])
def test_top_k_keeps_the_k_most_likely_in_proportion(k: int) -> None:
    expected = set(LOGITS.argsort(descending=True)[:k].tolist())
    assert kept(top_k(LOGITS, k)) == expected
    if k == 3:
        found = counts(GenerationConfig(temperature=1.0, top_k=3))
        assert set(found.nonzero()[:, 0].tolist()) == expected
        wanted = PROBABILITIES[list(expected)] / PROBABILITIES[list(expected)].sum()
        assert torch.allclose(found[list(expected)].double(), wanted, atol=1e-3)


def test_top_k_of_equals_keeps_k() -> None:
    assert kept(top_k(torch.zeros(9), 4)) == {0, 1, 2, 3}


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_fewest_that_reach_the_mass(p: float) -> None:
    ids = kept(top_p(LOGITS, p))
    mass = sorted(PROBABILITIES[list(ids)].tolist(), reverse=True)
    assert sum(mass) >= p
    assert sum(mass[:-1]) < p
    assert min(mass) >= PROBABILITIES[[i for i in range(40) if i not in ids]].max()


@pytest.mark.parametrize("p", [0.01, 0.1, 0.9])
def test_min_p_keeps_what_is_near_the_most_likely(p: float) -> None:
    expected = {i for i in range(40) if PROBABILITIES[i] >= p * PROBABILITIES.max()}
    assert kept(min_p(LOGITS, p)) == expected
    assert 0 < len(expected) < 40


def test_excluded_ids_are_never_sampled() -> None:
    logits = LOGITS.clone()
    logits[int(LOGITS.argmax())] = -torch.inf
    for uniform in (0.0, 0.3, 1 - 2**-53):
        assert sample_token(logits, uniform) != int(LOGITS.argmax())
        assert torch.isfinite(logits[sample_token(logits, uniform)])
    only = torch.full((5,), -torch.inf)
    only[3] = 0.0
    assert sample_token(only, 1 - 2**-53) == 3


def test_the_repetition_penalty_lowers_seen_ids_and_nothing_else() -> None:
    seen = [int(LOGITS.argmax()), int(LOGITS.argmin()), int(LOGITS.argmax())]
    changed = penalised(LOGITS, seen, 1.5)
    assert changed[seen[0]] == LOGITS[seen[0]] / 1.5
    assert changed[seen[1]] == LOGITS[seen[1]] * 1.5
    others = [i for i in range(40) if i not in seen]
    assert torch.equal(changed[others], LOGITS[others])
    second = int(LOGITS.argsort(descending=True)[1])
    config = GenerationConfig(repetition_penalty=50.0)
    positions = [TokenPosition(0, 5, seen), TokenPosition(1, 5)]
    assert sample_tokens(LOGITS.repeat(2, 1), positions, config, 0) == [second, int(LOGITS.argmax())]
    assert torch.equal(penalised(LOGITS, [], 2.0), LOGITS)


def test_a_random_draw_is_named_by_seed_document_and_position() -> None:
    """The same name gives the same id whatever is sampled before or at the same time; other names give others."""
    names = [(document, position) for document in range(3) for position in range(6)]
    first = dict(zip(names, sampled_at(*names, temperature=1.0), strict=True))
    assert {name: sampled_at(name, temperature=1.0)[0] for name in reversed(names)} == first
    assert list(first.values()) != sampled_at(*names, seed=1, temperature=1.0)
    assert len(set(first.values())) > 5


@pytest.mark.parametrize(
    ("setting", "value"),
    [("top_k", -1), ("top_p", 0), ("min_p", 1), ("repetition_penalty", 0.5), ("stop", ("",)), ("temperature", -1)],
)
def test_settings_out_of_range_are_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=setting):
        GenerationConfig.model_validate({setting: value})


@pytest.mark.parametrize("interval", [(0.5, 0.5), (0.8, 0.2), (-0.1, 1.0), (0.0, 1.1)])
def test_an_interval_that_is_none_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="guidance_interval"):
        GenerationConfig(guidance_interval=interval)


class Pieces:
    """A text coder whose ids are pieces of text."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[token] for token in ids)


@given(
    st.lists(st.text("ab.", min_size=1, max_size=3), max_size=12),
    st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3),
)
def test_a_stop_string_ends_a_run_wherever_tokens_are_split(tokens: list[str], stops: list[str]) -> None:
    """Token by token it emits the text up to the first stop string, and never more than that."""
    run: Any = TextRun(Pieces(tokens), tuple(stops))  # type: ignore[arg-type]
    emitted, text = "", ""
    for token, piece in enumerate(tokens):
        text += piece
        emitted += run.add(token)
        assert text.startswith(emitted)
        if run.stopped:
            break
    emitted += run.close()
    found = [index for stop in stops if (index := text.find(stop)) >= 0]
    assert run.stopped == bool(found)
    assert emitted == (text[: min(found)] if found else "".join(tokens))
