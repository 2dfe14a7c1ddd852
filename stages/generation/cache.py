"""Keys and values of what documents say so far, in preallocated memory, and the attention of new elements over them.

A slot holds one sequence; its first `lengths[slot]` places are final. An image that is being denoised writes its patches'
keys and values to the places behind them at every step, so that the model only ever sees the current state (paper, section
3); the clean pass leaves there what later elements read.

Legend: S slots, M places, H heads, d head size; N new elements of all rows, R rows (one slot each), T new elements of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.model.positions import Rotary, rotate_into


class KeyValueCache:
    """Memory for S sequences. It doubles when one needs more places than there are, and never grows element by element."""

    def __init__(self, layers: int, slots: int, places: int, heads: int, head_dim: int, like: Tensor) -> None:
        shape = (slots, places, heads, head_dim)
        self.keys_SMHd = [like.new_zeros(shape) for _ in range(layers)]  # zeros: a masked place must not be NaN
        self.values_SMHd = [like.new_zeros(shape) for _ in range(layers)]
        self.lengths = [0] * slots

    @property
    def places(self) -> int:
        return self.keys_SMHd[0].shape[1]

    def reserve(self, places: int) -> None:
        """Make room for sequences of `places` elements."""
        if places <= self.places:
            return
        wanted, held = max(places, 2 * self.places), max(self.lengths)
        for memory in (self.keys_SMHd, self.values_SMHd):
            for layer, old in enumerate(memory):
                memory[layer] = old.new_zeros(old.shape[0], wanted, *old.shape[2:])
                memory[layer][:, :held] = old[:, :held]


@dataclass(frozen=True)
class Row:
    """T new elements of the sequence in `slot`, at the places from `start` on. mask_TM: what each sees of the first
    start + T places; None: all of them."""

    slot: int
    start: int
    count: int
    mask_TM: Tensor | None = None


@dataclass(frozen=True)
class CachedAttention:
    """Attention of the new elements of some rows, which lie behind one another; made once for all layers and steps.

    A row at a time over exactly the places that it sees; many rows of one element each, all at once. As measured on CPU:
    BENCHMARKS.md. together: set by tests.
    """

    cache: KeyValueCache
    rows: tuple[Row, ...]
    together: bool

    @staticmethod
    def of(cache: KeyValueCache, rows: tuple[Row, ...]) -> CachedAttention:
        """The faster of both ways; a GPU would rather start one kernel than one for each row."""
        alike = len({row.count for row in rows}) == 1
        many = len(rows) > 3 and rows[0].count == 1
        return CachedAttention(cache, rows, alike and (many or cache.keys_SMHd[0].is_cuda))

    def __call__(self, layer: int, qkv_N3Hd: Tensor, rotary: Rotary) -> Tensor:
        qk_N2Hd = torch.empty_like(qkv_N3Hd[:, :2])
        cos, sin = (angle_Nr[:, None, None].to(qkv_N3Hd.dtype) for angle_Nr in rotary)
        rotate_into(qk_N2Hd, qkv_N3Hd[:, :2], cos, sin)
        q_NHd, k_NHd, v_NHd = *qk_N2Hd.unbind(1), qkv_N3Hd[:, 2]
        keys_SMHd, values_SMHd = self.cache.keys_SMHd[layer], self.cache.values_SMHd[layer]
        if self.together:
            return self._together(keys_SMHd, values_SMHd, q_NHd, k_NHd, v_NHd)
        out_NHd = torch.empty_like(q_NHd)
        first = 0
        for row in self.rows:
            new, seen = slice(first, first + row.count), row.start + row.count
            keys_MHd, values_MHd = keys_SMHd[row.slot, :seen], values_SMHd[row.slot, :seen]
            keys_MHd[row.start :] = k_NHd[new]
            values_MHd[row.start :] = v_NHd[new]
            q_1HTd, k_1HMd, v_1HMd = (x.transpose(0, 1)[None] for x in (q_NHd[new], keys_MHd, values_MHd))
            mixed_1HTd = F.scaled_dot_product_attention(q_1HTd, k_1HMd, v_1HMd, attn_mask=row.mask_TM)
            out_NHd[new] = mixed_1HTd[0].transpose(0, 1)
            first += row.count
        return out_NHd

    def _together(self, keys_SMHd: Tensor, values_SMHd: Tensor, q_NHd: Tensor, k_NHd: Tensor, v_NHd: Tensor) -> Tensor:
        slots_R, places_RT, mask_R1TM = self._where
        shape = (*places_RT.shape, *q_NHd.shape[1:])
        keys_SMHd[slots_R[:, None], places_RT] = k_NHd.reshape(shape)
        values_SMHd[slots_R[:, None], places_RT] = v_NHd.reshape(shape)
        seen = mask_R1TM.shape[-1]
        mixed_RHTd = F.scaled_dot_product_attention(
            q_NHd.reshape(shape).transpose(1, 2),
            keys_SMHd[slots_R, :seen].transpose(1, 2),
            values_SMHd[slots_R, :seen].transpose(1, 2),
            attn_mask=mask_R1TM,
        )
        return mixed_RHTd.transpose(1, 2).reshape(q_NHd.shape)

    @cached_property
    def _where(self) -> tuple[Tensor, Tensor, Tensor]:
        """Slots (R,), places (R, T), and the mask (R, 1, T, M) over the places that any row sees."""
        device, count = self.cache.keys_SMHd[0].device, self.rows[0].count
        slots_R, starts_R = torch.tensor([[row.slot, row.start] for row in self.rows], device=device).unbind(1)
        seen = max(row.start for row in self.rows) + count
        mask_RTM = (torch.arange(seen, device=device) < starts_R[:, None] + count)[:, None].repeat(1, count, 1)
        for number, row in enumerate(self.rows):
            if row.mask_TM is not None:
                mask_RTM[number, :, : row.start + count] = row.mask_TM
        return slots_R, starts_R[:, None] + torch.arange(count, device=device), mask_RTM[:, None]
