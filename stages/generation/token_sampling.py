"""The next token: greedy, or sampled with a random number that is named by document and position, never by the batch.

In this order: repetition penalty, temperature, top-k, top-p, min-p, sampling. Legend: B documents, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.core.seeds import torch_generator
from stages.generation.config import GenerationConfig


@dataclass(frozen=True)
class TokenPosition:
    """Where a token is sampled: the number of its document, its position there, and the ids of the document's text so far."""

    document: int
    position: int
    seen: Sequence[int] = ()


def sample_tokens(
    logits_BV: Tensor, positions: Sequence[TokenPosition], config: GenerationConfig, seed: int
) -> list[int]:
    """A token for each of B documents, from their logits (B, V)."""
    if config.repetition_penalty != 1:
        rows = zip(logits_BV, positions, strict=True)
        logits_BV = torch.stack([penalised(logits_V, at.seen, config.repetition_penalty) for logits_V, at in rows])
    if config.temperature == 0:
        greedy: list[int] = logits_BV.argmax(-1).tolist()
        return greedy
    tokens = []
    for logits_V, at in zip(logits_BV, positions, strict=True):
        uniform = torch.rand((), generator=torch_generator(seed, "token", at.document, at.position)).item()
        tokens.append(sample_token(filtered(logits_V, config), uniform))
    return tokens


def filtered(logits_V: Tensor, config: GenerationConfig) -> Tensor:
    """The logits at the temperature, -inf for ids that top-k, top-p or min-p exclude."""
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


def sample_token(logits_V: Tensor, uniform: float) -> int:
    """The id at `uniform`, in [0, 1), of the cumulative probabilities, the most likely id first (inverse transform sampling)."""
    probabilities, order = logits_V.softmax(-1).sort(descending=True, stable=True)
    total = probabilities.cumsum(0)
    rank = int(torch.searchsorted(total, total.new_tensor(uniform) * total[-1], right=True))
    return int(order[min(rank, int((probabilities > 0).sum()) - 1)])
