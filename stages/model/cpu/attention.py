"""Attention over documents that are grouped by length, with its backward pass written out: the kernel for CPU.

Legend: N elements, H heads, d head size, r = d / 2; G documents of a group, L their length, B = G H.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stages.model.rotary import Rotary, rotate_into

_ROWS = 128  # queries that are scored together in a long document
_KEPT = 512  # longest documents whose weights are kept for the backward pass, not computed again


@dataclass(frozen=True)
class Tile:
    """Queries `rows` of a document see keys before `end` only; from `first` on, where `hidden` (G, 1, rows, end - first) says."""

    rows: slice
    end: int
    first: int
    hidden: Tensor


@dataclass(frozen=True)
class Group:
    """Documents of one length that lie behind one another, from element `first` on: a view, never a gather."""

    first: int
    documents: int
    length: int
    tiles: tuple[Tile, ...]

    @classmethod
    def of(cls, first: int, mask_G1LL: Tensor) -> Group:
        """mask_G1LL: what each element sees (`attention.group_mask`). Padding comes last in a document, so that no query of a
        real element sees it."""
        return cls(first, len(mask_G1LL), mask_G1LL.shape[-1], _tiles(mask_G1LL))

    def map(self, move: Callable[[Tensor], Tensor]) -> Group:
        """The same with `move` of each tensor."""
        return replace(self, tiles=tuple(replace(tile, hidden=move(tile.hidden)) for tile in self.tiles))

    def of_elements(self, x: Tensor) -> Tensor:
        """These documents' elements of a tensor (N, ...): a view (G, L, ...)."""
        size = self.documents * self.length
        view: Tensor = x[self.first : self.first + size].unflatten(0, (self.documents, self.length))
        return view


@dataclass(frozen=True)
class GroupedAttention:
    """The kernel for CPU: 5 to 25 times faster than the dense mask. groups: together they cover all N elements."""

    groups: tuple[Group, ...]

    def __call__(self, layer: int, qkv_N3Hd: Tensor, rotary: Rotary) -> Tensor:
        del layer
        out: Tensor = _Grouped.apply(qkv_N3Hd, *rotary, self.groups)  # type: ignore[no-untyped-call]
        return out


class _Grouped(torch.autograd.Function):
    """Softmax attention, written out, group by group and tile by tile, with the turning of queries and keys.

    One tensor holds the three gradients, and what no query of a tile sees is not computed. On CPU a training step is faster
    than with torch's fused kernel, whose backward pass takes no mask cheaply.
    """

    @staticmethod
    def forward(ctx: Any, qkv_N3Hd: Tensor, cos_Nr: Tensor, sin_Nr: Tensor, groups: tuple[Group, ...]) -> Tensor:
        learns = ctx.needs_input_grad[0]
        out_NHd = torch.empty_like(qkv_N3Hd[:, 0])
        kept: list[Tensor] = []
        for group in groups:
            qkv_3GHLd = _to_heads(group.of_elements(qkv_N3Hd), group.of_elements(cos_Nr), group.of_elements(sin_Nr))
            q, k, v = qkv_3GHLd.flatten(1, 2)
            out_BLd = torch.empty_like(q)
            kept.append(qkv_3GHLd)
            for tile in group.tiles:
                weights = _weights(q, k, tile)
                out_BLd[:, tile.rows] = torch.bmm(weights, v[:, : tile.end])
                if learns and group.length <= _KEPT:
                    kept.append(weights)
            group.of_elements(out_NHd).copy_(out_BLd.unflatten(0, (group.documents, -1)).transpose(1, 2))
        if learns:
            ctx.groups = groups
            ctx.save_for_backward(cos_Nr, sin_Nr, *kept)
        return out_NHd

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        cos_Nr, sin_Nr, *kept = ctx.saved_tensors
        (gradient_NHd,) = gradients
        made_N3Hd = gradient_NHd.new_empty(len(gradient_NHd), 3, *gradient_NHd.shape[1:])
        for group in ctx.groups:
            qkv_3GHLd = kept.pop(0)
            weights = [kept.pop(0) for _ in group.tiles] if group.length <= _KEPT else []
            gradient = group.of_elements(gradient_NHd).transpose(1, 2).flatten(0, 1)
            made = _backward(qkv_3GHLd, weights, gradient.contiguous(), group.tiles)
            _from_heads(made, group.of_elements(cos_Nr), group.of_elements(sin_Nr), group.of_elements(made_N3Hd))
        return made_N3Hd, None, None, None


def _tiles(mask_G1LL: Tensor) -> tuple[Tile, ...]:
    """What of a mask has to be computed: nothing right of the last key that some query of a tile sees."""
    length = mask_G1LL.shape[-1]
    tiles = []
    for start in range(0, length, _ROWS):
        rows = slice(start, min(start + _ROWS, length))
        here = mask_G1LL[:, :, rows]
        some, every = here.amax((0, 1, 2)), here.amin((0, 1, 2))
        end = int(some.nonzero()[-1]) + 1
        first = int((~every).nonzero()[0]) if not bool(every.all()) else end
        tiles.append(Tile(rows, end, min(first, end), ~here[..., min(first, end) : end]))
    return tuple(tiles)


def _weights(q: Tensor, k: Tensor, tile: Tile) -> Tensor:
    """Attention weights (G H, rows, end) of a tile."""
    seen = k[:, : tile.end].transpose(1, 2)
    scores = torch.baddbmm(q.new_empty(()), q[:, tile.rows], seen, beta=0, alpha=q.shape[-1] ** -0.5)
    if tile.first < tile.end:
        per_document = scores[..., tile.first :].unflatten(0, (len(tile.hidden), -1))
        per_document.masked_fill_(tile.hidden, -torch.inf)
    weights: Tensor = scores.softmax(-1)
    return weights


def _backward(qkv_3GHLd: Tensor, kept: list[Tensor], gradient: Tensor, tiles: tuple[Tile, ...]) -> Tensor:
    """Gradients of turned queries, keys and values, (3, G, H, L, d). The last tile sees every key, so it comes first."""
    q, k, v = qkv_3GHLd.flatten(1, 2)
    made_3GHLd = torch.empty_like(qkv_3GHLd)
    q_made, k_made, v_made = made_3GHLd.flatten(1, 2)
    scale = q.shape[-1] ** -0.5
    for number in reversed(range(len(tiles))):
        tile = tiles[number]
        rows, end, last = tile.rows, tile.end, number == len(tiles) - 1
        weights = kept[number] if kept else _weights(q, k, tile)
        by_weight = torch.bmm(gradient[:, rows], v[:, :end].transpose(1, 2))
        by_score = torch._softmax_backward_data(by_weight, weights, -1, weights.dtype)
        q_made[:, rows] = torch.baddbmm(q.new_empty(()), by_score, k[:, :end], beta=0, alpha=scale)
        for made, factor, other in ((k_made, by_score, q), (v_made, weights, gradient)):
            alpha = scale if made is k_made else 1.0
            part = torch.baddbmm(q.new_empty(()), factor.transpose(1, 2), other[:, rows], beta=0, alpha=alpha)
            if last:
                made.copy_(part)
            else:
                made[:, :end] += part
    return made_3GHLd


def _to_heads(qkv_GL3Hd: Tensor, cos_GLr: Tensor, sin_GLr: Tensor) -> Tensor:
    """Queries and keys turned, values as they are, heads before elements: (3, G, H, L, d)."""
    documents, length, _, heads, size = qkv_GL3Hd.shape
    out_3GHLd = qkv_GL3Hd.new_empty(3, documents, heads, length, size)
    out_GL3Hd = out_3GHLd.permute(1, 3, 0, 2, 4)
    rotate_into(out_GL3Hd[:, :, :2], qkv_GL3Hd[:, :, :2], cos_GLr[:, :, None, None], sin_GLr[:, :, None, None])
    out_GL3Hd[:, :, 2].copy_(qkv_GL3Hd[:, :, 2])
    return out_3GHLd


def _from_heads(made_3GHLd: Tensor, cos_GLr: Tensor, sin_GLr: Tensor, out_GL3Hd: Tensor) -> None:
    """The way back of a gradient: turned the other way."""
    made_GL3Hd = made_3GHLd.permute(1, 3, 0, 2, 4)
    rotate_into(out_GL3Hd[:, :, :2], made_GL3Hd[:, :, :2], cos_GLr[:, :, None, None], -sin_GLr[:, :, None, None])
    out_GL3Hd[:, :, 2].copy_(made_GL3Hd[:, :, 2])
