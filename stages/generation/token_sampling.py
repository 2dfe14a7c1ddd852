"""Which token comes next: greedy, or a draw that is named by the document's number and the place, never by the batch.

In this order: repetition penalty, temperature, top-k, top-p, min-p, draw. Legend: B documents, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.core.seeds import torch_generator
from stages.generation.config import GenerationConfig


@dataclass(frozen=True)
class Place:
    """Where a token is chosen: the number of its document, the place in it, and the ids of text before it."""

    document: int
    place: int
    seen: Sequence[int] = ()


def choose(logits_BV: Tensor, places: Sequence[Place], config: GenerationConfig, seed: int) -> list[int]:
    """A token for each row."""
    if config.repetition_penalty != 1:
        rows = zip(logits_BV, places, strict=True)
        logits_BV = torch.stack([penalised(logits_V, at.seen, config.repetition_penalty) for logits_V, at in rows])
    if config.temperature == 0:
        greedy: list[int] = logits_BV.argmax(-1).tolist()
        return greedy
    chosen = []
    for logits_V, at in zip(logits_BV, places, strict=True):
        draw = torch.rand((), generator=torch_generator(seed, "token", at.document, at.place)).item()
        chosen.append(drawn(allowed(logits_V, config), draw))
    return chosen


def allowed(logits_V: Tensor, config: GenerationConfig) -> Tensor:
    """The logits at the temperature, -inf where an id is ruled out."""
    logits_V = logits_V / config.temperature
    if config.top_k:
        logits_V = top_k(logits_V, config.top_k)
    if config.top_p < 1:
        logits_V = top_p(logits_V, config.top_p)
    if config.min_p > 0:
        logits_V = min_p(logits_V, config.min_p)
    return logits_V


def penalised(logits_V: Tensor, seen: Iterable[int], penalty: float) -> Tensor:
    """Ids that were seen made less likely (Keskar et al. 2019, section 4.1): logits above 0 divided, others multiplied."""
    ids = torch.tensor(sorted(set(seen)), dtype=torch.long, device=logits_V.device)
    before = logits_V[ids]
    return logits_V.scatter(0, ids, torch.where(before > 0, before / penalty, before * penalty))


def top_k(logits_V: Tensor, k: int) -> Tensor:
    """The k most likely ids, the first of equals; all others -inf."""
    kept = logits_V.sort(descending=True, stable=True).indices[:k]
    return torch.full_like(logits_V, -torch.inf).scatter(0, kept, logits_V[kept])


def top_p(logits_V: Tensor, p: float) -> Tensor:
    """The fewest of the most likely ids whose probabilities sum to p or more (Holtzman et al. 2020); all others -inf."""
    probabilities, order = logits_V.softmax(-1).sort(descending=True, stable=True)
    kept = order[probabilities.cumsum(0) - probabilities < p]
    return torch.full_like(logits_V, -torch.inf).scatter(0, kept, logits_V[kept])


def min_p(logits_V: Tensor, p: float) -> Tensor:
    """Ids at least p times as likely as the most likely one (Nguyen et al. 2024); all others -inf."""
    probabilities = logits_V.softmax(-1)
    return logits_V.masked_fill(probabilities < p * probabilities.max(), -torch.inf)


def drawn(logits_V: Tensor, draw: float) -> int:
    """The id at `draw` (in [0, 1)) of the probabilities laid end to end, the most likely first."""
    probabilities, order = logits_V.softmax(-1).sort(descending=True, stable=True)
    total = probabilities.cumsum(0)
    place = int(torch.searchsorted(total, total.new_tensor(draw) * total[-1], right=True))
    return int(order[min(place, int((probabilities > 0).sum()) - 1)])
