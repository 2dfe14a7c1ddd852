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

from stages.model.rotary import Rotary, apply_rotary


class KeyValueCache:
    """Memory for S sequences. It doubles when one needs more places than there are, and never grows element by element."""

    def __init__(self, layers: int, slots: int, places: int, heads: int, head_dim: int, like: Tensor) -> None:
        shape = (slots, heads, places, head_dim)
        self.keys_SHMd = [like.new_zeros(shape) for _ in range(layers)]  # zeros: a masked place must not be NaN
        self.values_SHMd = [like.new_zeros(shape) for _ in range(layers)]
        self.lengths = [0] * slots

    @property
    def places(self) -> int:
        return self.keys_SHMd[0].shape[2]

    def reserve(self, places: int) -> None:
        """Make room for sequences of `places` elements."""
        if places <= self.places:
            return
        wanted, held = max(places, 2 * self.places), max(self.lengths)
        for memory in (self.keys_SHMd, self.values_SHMd):
            for layer, old in enumerate(memory):
                memory[layer] = old.new_zeros(*old.shape[:2], wanted, old.shape[-1])
                memory[layer][:, :, :held] = old[:, :, :held]


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
        return CachedAttention(cache, rows, alike and (many or cache.keys_SHMd[0].is_cuda))

    def __call__(self, layer: int, qkv_N3Hd: Tensor, rotary: Rotary) -> Tensor:
        return self.attend(layer, *apply_rotary(qkv_N3Hd, rotary))

    def attend(self, layer: int, q_NHd: Tensor, k_NHd: Tensor, v_NHd: Tensor) -> Tensor:
        """The same for queries and keys that are turned."""
        keys_SHMd, values_SHMd = self.cache.keys_SHMd[layer], self.cache.values_SHMd[layer]
        if self.together:
            return self._together(keys_SHMd, values_SHMd, q_NHd, k_NHd, v_NHd)
        if len(self.rows) == 1 and self.rows[0].count == 1:
            return self._one(self.rows[0], keys_SHMd, values_SHMd, q_NHd, k_NHd, v_NHd)
        mixed_1THd = []
        first = 0
        for row in self.rows:
            new, seen = slice(first, first + row.count), row.start + row.count
            keys_1HMd, values_1HMd = (x[row.slot : row.slot + 1, :, :seen] for x in (keys_SHMd, values_SHMd))
            q_1HTd, k_1HTd, v_1HTd = (x[None, new].transpose(1, 2) for x in (q_NHd, k_NHd, v_NHd))
            keys_1HMd[:, :, row.start :] = k_1HTd
            values_1HMd[:, :, row.start :] = v_1HTd
            mixed_1HTd = F.scaled_dot_product_attention(q_1HTd, keys_1HMd, values_1HMd, attn_mask=row.mask_TM)
            mixed_1THd.append(mixed_1HTd.transpose(1, 2))
            first += row.count
        return torch.cat(mixed_1THd, dim=1)[0] if len(mixed_1THd) > 1 else mixed_1THd[0][0]

    @staticmethod
    def _one(row: Row, keys_SHMd: Tensor, values_SHMd: Tensor, q_1Hd: Tensor, k_1Hd: Tensor, v_1Hd: Tensor) -> Tensor:
        """One element of one document: as above, in as few calls as there can be."""
        keys_1HMd = keys_SHMd.narrow(0, row.slot, 1).narrow(2, 0, row.start + 1)
        values_1HMd = values_SHMd.narrow(0, row.slot, 1).narrow(2, 0, row.start + 1)
        keys_1HMd.select(2, row.start).copy_(k_1Hd)
        values_1HMd.select(2, row.start).copy_(v_1Hd)
        mixed_1H1d = F.scaled_dot_product_attention(q_1Hd.unsqueeze(2), keys_1HMd, values_1HMd, attn_mask=row.mask_TM)
        return mixed_1H1d.squeeze(2)

    def _together(self, keys_SHMd: Tensor, values_SHMd: Tensor, q_NHd: Tensor, k_NHd: Tensor, v_NHd: Tensor) -> Tensor:
        slots_R, places_RT, mask_R1TM = self._where
        shape = (*places_RT.shape, *q_NHd.shape[1:])
        keys_SHMd[slots_R[:, None], :, places_RT] = k_NHd.reshape(shape)
        values_SHMd[slots_R[:, None], :, places_RT] = v_NHd.reshape(shape)
        seen = mask_R1TM.shape[-1]
        mixed_RHTd = F.scaled_dot_product_attention(
            q_NHd.reshape(shape).transpose(1, 2),
            keys_SHMd[slots_R, :, :seen],
            values_SHMd[slots_R, :, :seen],
            attn_mask=mask_R1TM,
        )
        return mixed_RHTd.transpose(1, 2).reshape(q_NHd.shape)

    @cached_property
    def _where(self) -> tuple[Tensor, Tensor, Tensor]:
        """Slots (R,), places (R, T), and the mask (R, 1, T, M) over the places that any row sees."""
        device, count = self.cache.keys_SHMd[0].device, self.rows[0].count
        slots_R, starts_R = torch.tensor([[row.slot, row.start] for row in self.rows], device=device).unbind(1)
        seen = max(row.start for row in self.rows) + count
        mask_RTM = (torch.arange(seen, device=device) < starts_R[:, None] + count)[:, None].repeat(1, count, 1)
        for number, row in enumerate(self.rows):
            if row.mask_TM is not None:
                mask_RTM[number, :, : row.start + count] = row.mask_TM
        return slots_R, starts_R[:, None] + torch.arange(count, device=device), mask_RTM[:, None]
