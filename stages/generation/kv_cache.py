"""Keys and values of the documents so far, in preallocated memory, and the attention of new elements over them.

A slot holds one sequence; its first `lengths[slot]` elements are final. An image that is being denoised writes its patches'
keys and values after them at every step, so that the model only ever sees the current state (paper, section 3); the clean pass
leaves there what later elements see.

Legend: S slots, M elements of a slot, H heads, d head size; N new elements of all segments, R segments (one slot each), T new
elements of a segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.model.rotary import Rotary, apply_rotary


class KeyValueCache:
    """Memory for S sequences, allocated by `reserve`: never element by element.

    lengths: final elements of each slot. capacity: elements that a slot has memory for.
    """

    def __init__(self, layers: int, slots: int, heads: int, head_dim: int, like: Tensor, spare: int = 0) -> None:
        """An empty cache.

        Args:
            layers: blocks of the model.
            slots: sequences that are held at the same time.
            heads: attention heads.
            head_dim: size of a head.
            like: a tensor of the dtype and on the device of keys and values.
            spare: elements that are allocated in addition to those that are needed at once.
        """
        shape = (slots, heads, 0, head_dim)
        self.keys_SHMd = [like.new_zeros(shape) for _ in range(layers)]
        self.values_SHMd = [like.new_zeros(shape) for _ in range(layers)]
        self.lengths = [0] * slots
        self.spare = spare

    @property
    def capacity(self) -> int:
        return self.keys_SHMd[0].shape[2]

    def reserve(self, length: int) -> None:
        """Make room for sequences of `length` elements: at least twice the capacity, where it does not suffice."""
        if length <= self.capacity:
            return
        capacity, held = max(length + self.spare, 2 * self.capacity), max(self.lengths)
        for memory in (self.keys_SHMd, self.values_SHMd):
            for layer, old in enumerate(memory):
                # zeros: an element that is masked must not be NaN
                memory[layer] = old.new_zeros(*old.shape[:2], capacity, old.shape[-1])
                memory[layer][:, :, :held] = old[:, :, :held]


@dataclass(frozen=True)
class CacheSegment:
    """T = `count` new elements of the sequence in `slot`, from offset `start` on. mask_TM: which of the first start + T elements
    each of them sees; None: all."""

    slot: int
    start: int
    count: int
    mask_TM: Tensor | None = None


@dataclass(frozen=True)
class CachedAttention:
    """Attention of the new elements of some segments, which are concatenated; built once for all layers and steps.

    One segment at a time over exactly the elements that it sees; many segments of one element each in one call. Which is
    faster was measured on CPU: docs/benchmarks.md. batched: all segments, of the same count, in one call.
    """

    cache: KeyValueCache
    segments: tuple[CacheSegment, ...]
    batched: bool

    @staticmethod
    def build(cache: KeyValueCache, segments: tuple[CacheSegment, ...]) -> CachedAttention:
        """The faster of both ways; on a GPU one kernel is started rather than one for each segment."""
        alike = len({segment.count for segment in segments}) == 1
        many = len(segments) > 3 and segments[0].count == 1
        return CachedAttention(cache, segments, alike and (many or cache.keys_SHMd[0].is_cuda))

    def __call__(self, layer: int, qkv_N3Hd: Tensor, rotary: Rotary) -> Tensor:
        return self.attend(layer, *apply_rotary(qkv_N3Hd, rotary))

    def attend(self, layer: int, q_NHd: Tensor, k_NHd: Tensor, v_NHd: Tensor) -> Tensor:
        """The attention output (N, H, d) for rotated queries and keys. Writes keys and values into the cache."""
        keys_SHMd, values_SHMd = self.cache.keys_SHMd[layer], self.cache.values_SHMd[layer]
        if self.batched:
            return self._attend_batched(keys_SHMd, values_SHMd, q_NHd, k_NHd, v_NHd)
        if len(self.segments) == 1 and self.segments[0].count == 1:
            return self._attend_single(self.segments[0], keys_SHMd, values_SHMd, q_NHd, k_NHd, v_NHd)
        outputs_1THd = []
        first = 0
        for segment in self.segments:
            new, end = slice(first, first + segment.count), segment.start + segment.count
            keys_1HMd, values_1HMd = (x[segment.slot : segment.slot + 1, :, :end] for x in (keys_SHMd, values_SHMd))
            q_1HTd, k_1HTd, v_1HTd = (x[None, new].transpose(1, 2) for x in (q_NHd, k_NHd, v_NHd))
            keys_1HMd[:, :, segment.start :] = k_1HTd
            values_1HMd[:, :, segment.start :] = v_1HTd
            output_1HTd = F.scaled_dot_product_attention(q_1HTd, keys_1HMd, values_1HMd, attn_mask=segment.mask_TM)
            outputs_1THd.append(output_1HTd.transpose(1, 2))
            first += segment.count
        return torch.cat(outputs_1THd, dim=1)[0] if len(outputs_1THd) > 1 else outputs_1THd[0][0]

    @staticmethod
    def _attend_single(
        segment: CacheSegment, keys_SHMd: Tensor, values_SHMd: Tensor, q_1Hd: Tensor, k_1Hd: Tensor, v_1Hd: Tensor
    ) -> Tensor:
        """One element of one document, in as few calls as possible."""
        keys_1HMd = keys_SHMd.narrow(0, segment.slot, 1).narrow(2, 0, segment.start + 1)
        values_1HMd = values_SHMd.narrow(0, segment.slot, 1).narrow(2, 0, segment.start + 1)
        keys_1HMd.select(2, segment.start).copy_(k_1Hd)
        values_1HMd.select(2, segment.start).copy_(v_1Hd)
        output_1H1d = F.scaled_dot_product_attention(
            q_1Hd.unsqueeze(2), keys_1HMd, values_1HMd, attn_mask=segment.mask_TM
        )
        return output_1H1d.squeeze(2)

    def _attend_batched(
        self, keys_SHMd: Tensor, values_SHMd: Tensor, q_NHd: Tensor, k_NHd: Tensor, v_NHd: Tensor
    ) -> Tensor:
        slots_R, index_RT, mask_R1TM = self._batched_index
        shape = (*index_RT.shape, *q_NHd.shape[1:])
        keys_SHMd[slots_R[:, None], :, index_RT] = k_NHd.reshape(shape)
        values_SHMd[slots_R[:, None], :, index_RT] = v_NHd.reshape(shape)
        end = mask_R1TM.shape[-1]
        output_RHTd = F.scaled_dot_product_attention(
            q_NHd.reshape(shape).transpose(1, 2),
            keys_SHMd[slots_R, :, :end],
            values_SHMd[slots_R, :, :end],
            attn_mask=mask_R1TM,
        )
        return output_RHTd.transpose(1, 2).reshape(q_NHd.shape)

    @cached_property
    def _batched_index(self) -> tuple[Tensor, Tensor, Tensor]:
        """Slots (R,), indices of the new elements in them (R, T), and the mask (R, 1, T, M) over what any segment sees."""
        device, count = self.cache.keys_SHMd[0].device, self.segments[0].count
        slots_and_starts = [[segment.slot, segment.start] for segment in self.segments]
        slots_R, starts_R = torch.tensor(slots_and_starts, device=device).unbind(1)
        end = max(segment.start for segment in self.segments) + count
        mask_RTM = (torch.arange(end, device=device) < starts_R[:, None] + count)[:, None].repeat(1, count, 1)
        for number, segment in enumerate(self.segments):
            if segment.mask_TM is not None:
                mask_RTM[number, :, : segment.start + count] = segment.mask_TM
        return slots_R, starts_R[:, None] + torch.arange(count, device=device), mask_RTM[:, None]
