"""Keys and values of what a document says so far, in preallocated memory, and the attention that reads them.

An image that is being denoised writes its patches' keys and values to the same places at every step, so that the model
only ever sees the current state (paper, section 3); the last, clean pass leaves the values that later elements read.

Legend: S slots (documents), L layers, H heads, M places, d head size; b slots in a call, T new elements each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


class KeyValueCache:
    """Memory for S documents of up to M elements. `lengths` counts the elements that are final, per slot."""

    def __init__(self, layers: int, slots: int, heads: int, places: int, head_dim: int, device: torch.device) -> None:
        shape = (layers, slots, places, heads, head_dim)
        self.keys_LSMHd = torch.zeros(shape, device=device)
        self.values_LSMHd = torch.zeros(shape, device=device)
        self.lengths = [0] * slots

    @property
    def places(self) -> int:
        return self.keys_LSMHd.shape[2]


@dataclass(frozen=True)
class CachedAttention:
    """Attention of T new elements in each of b slots over the cache; called with (b T, H, d).

    slots_b: which documents. places_bT: where the new elements stand; mask_b1TM: which places each may see.
    """

    cache: KeyValueCache
    slots_b: Tensor
    places_bT: Tensor
    mask_b1TM: Tensor

    def __call__(self, layer: int, q_NHd: Tensor, k_NHd: Tensor, v_NHd: Tensor) -> Tensor:
        keys, values = self.cache.keys_LSMHd[layer], self.cache.values_LSMHd[layer]
        shape = (*self.places_bT.shape, *q_NHd.shape[1:])
        where = (self.slots_b[:, None], self.places_bT)
        keys[where] = k_NHd.reshape(shape)
        values[where] = v_NHd.reshape(shape)
        seen = self.mask_b1TM.shape[-1]
        out = F.scaled_dot_product_attention(
            q_NHd.reshape(shape).transpose(1, 2),
            keys[self.slots_b, :seen].transpose(1, 2),
            values[self.slots_b, :seen].transpose(1, 2),
            attn_mask=self.mask_b1TM,
        )
        return out.transpose(1, 2).reshape(q_NHd.shape)
