"""How likely a model finds a text after given pieces: sums of the log-probabilities of its tokens.

Legend: B sequences of a batch, N elements of all of them, T tokens of all texts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stages.generation.kv_cache import CachedAttention, CacheSegment, KeyValueCache
from stages.generation.layout import SequenceBuilder, TokenSequence, build_inputs, build_mask
from stages.generation.loading import LoadedModel
from stages.generation.prompts import Piece, TextPiece
from stages.model.cpu.inference import key_value_dtype

Asked = tuple[Sequence[Piece], str]


@torch.inference_mode()
def text_log_likelihoods(loaded: LoadedModel, asked: Sequence[Asked], batch_size: int = 32) -> list[float]:
    """For each (pieces, text) the log-probability of the text, and of the document's end after it, given the pieces.

    Images are read clean (t = 0). A result does not depend on the others beyond rounding.
    """
    found: list[float] = []
    for start in range(0, len(asked), batch_size):
        found += _of_batch(loaded, asked[start : start + batch_size])
    return found


def _of_batch(loaded: LoadedModel, asked: Sequence[Asked]) -> list[float]:
    side, device = loaded.checkpoint.content.patch_side, loaded.device
    builder = SequenceBuilder(loaded.text, side, loaded.size_ids)
    sequences = [builder.build((*pieces, TextPiece(text))) for pieces, text in asked]
    given = [len(builder.build(pieces).ids) for pieces, _ in asked]
    inputs = build_inputs(sequences, [0] * len(sequences), side, device)
    hidden_ND = loaded.model.hidden(inputs, _attention(loaded, sequences, side)).hidden_ND
    first, results = 0, []
    for sequence, start in zip(sequences, given, strict=True):
        end = first + len(sequence.ids)
        # each hidden state predicts the element after it: from the last given one on, up to the end of the document
        logits_TV = loaded.model.text_head(hidden_ND[first + start - 1 : end]).float()
        next_T = torch.tensor([*sequence.ids[start:], loaded.text.eos], device=device)
        results.append(float(logits_TV.log_softmax(-1).gather(1, next_T[:, None]).double().sum()))
        first = end
    return results


def _attention(loaded: LoadedModel, sequences: Sequence[TokenSequence], side: int) -> CachedAttention:
    """Each sequence over itself, in a cache of its own that is thrown away."""
    config, device = loaded.model.config, loaded.device
    like = torch.empty((), dtype=key_value_dtype(loaded.model), device=device)
    cache = KeyValueCache(config.layers, len(sequences), config.heads, config.width // config.heads, like)
    cache.reserve(max(len(sequence.ids) for sequence in sequences))
    bidirectional = config.image_attention == "bidirectional"
    segments = tuple(
        CacheSegment(slot, 0, len(sequence.ids), build_mask(sequence, 0, side, device, bidirectional=bidirectional))
        for slot, sequence in enumerate(sequences)
    )
    return CachedAttention.build(cache, segments)
