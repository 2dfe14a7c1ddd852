"""Which token comes next: greedy, or a draw that is named by the document's number and the place, never by the batch.

Legend: B documents, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.core.seeds import torch_generator
from stages.generation.config import GenerationConfig


def choose(logits_BV: Tensor, names: list[tuple[int, int]], config: GenerationConfig, seed: int) -> list[int]:
    """A token for each row. names: the number of its document and its place there."""
    if config.temperature == 0:
        greedy: list[int] = logits_BV.argmax(-1).tolist()
        return greedy
    return [_draw(logits_V, *name, config, seed) for logits_V, name in zip(logits_BV, names, strict=True)]


def _draw(logits_V: Tensor, index: int, place: int, config: GenerationConfig, seed: int) -> int:
    """Temperature and nucleus (Holtzman et al. 2020)."""
    probabilities, order = torch.softmax(logits_V / config.temperature, -1).sort(descending=True, stable=True)
    keep = probabilities.cumsum(0) - probabilities < config.top_p
    total = (probabilities * keep).cumsum(0)
    draw = torch.rand((), generator=torch_generator(seed, "token", index, place)).item()
    choice = int(torch.searchsorted(total, total.new_tensor(draw) * total[-1], right=True))
    return int(order[min(choice, int(keep.sum()) - 1)])
