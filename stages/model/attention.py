"""The mask and its kernels.

allow(query, key) = same document AND (key <= query OR both are patches of the same image)   (paper, section 3, fig. 4)

BOI and EOI are outside the two-way block. A hidden image (one that later elements read as a clean copy) is seen by itself
alone: AND (key is not hidden OR both are patches of the same image).

A kernel is called once a layer with queries, keys and values of all N elements in one tensor, as the projection gives
them, and the angles of `rotary_table`; it turns queries and keys and returns what each element reads. Legend: N elements,
H heads, d head size; G documents of a group, L their length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.model.positions import Rotary, rotate_into, turned

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

_ROWS = 128  # queries that are scored together in a long document
_KEPT = 512  # longest documents whose weights are kept for the backward pass, not computed again


class Attention(Protocol):
    """A kernel with the mask of one batch inside."""

    def __call__(self, layer: int, qkv_N3Hd: Tensor, rotary: Rotary) -> Tensor: ...


def allowed(
    documents_N: Tensor, images_N: Tensor, hidden_N: Tensor | None = None, *, bidirectional: bool = True
) -> Tensor:
    """The whole mask (N, N), True where the query (row) may see the key (column): the reference for every kernel.

    documents_N: document of each element. images_N: image of each element, -1 outside images; ids unique in the batch, a clean
    copy is an image of its own. hidden_N: True for patches that only their own image sees (None: there are none).
    bidirectional False is the paper's ablation (table 5): causal inside images too.
    """
    place = torch.arange(len(documents_N), device=documents_N.device)
    hidden = None if hidden_N is None else hidden_N[None, :]
    seen = _seen(place[:, None], place[None, :], images_N[:, None], images_N[None, :], hidden, bidirectional)
    return seen & (documents_N[:, None] == documents_N[None, :])


def _seen(
    query: Tensor, key: Tensor, query_image: Tensor, key_image: Tensor, key_hidden: Tensor | None, bidirectional: bool
) -> Tensor:
    """The rule inside a document, for places that broadcast: the one that every kernel's mask is made of."""
    seen = key <= query
    if not bidirectional and key_hidden is None:
        return seen
    same = (query_image == key_image) & (query_image >= 0)
    if bidirectional:
        seen = seen | same
    return seen if key_hidden is None else seen & (same | ~key_hidden)


@dataclass(frozen=True)
class DenseAttention:
    """One mask (N, N) over the whole batch: slow, and the reference that the fast path is tested against."""

    mask_NN: Tensor

    def __call__(self, layer: int, qkv_N3Hd: Tensor, rotary: Rotary) -> Tensor:
        del layer
        q, k, v = (x.transpose(0, 1)[None] for x in turned(qkv_N3Hd, rotary))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask_NN)[0].transpose(0, 1)


@dataclass(frozen=True)
class GroupedAttention:
    """Documents of one (rounded) length lie behind one another, so that a group is a view and never a gather.

    On CPU this is 5 to 25 times faster than the dense mask. groups: (first element, documents G, length L, mask
    (G, 1, L, L)); together they cover all N elements. Padding comes last in a document, so no query of a real element
    sees it.
    """

    groups: tuple[tuple[int, int, int, Tensor], ...]

    @cached_property
    def _plan(self) -> list[_Group]:
        return [_Group(first, count, length, _tiles(mask)) for first, count, length, mask in self.groups]

    def __call__(self, layer: int, qkv_N3Hd: Tensor, rotary: Rotary) -> Tensor:
        del layer
        out: Tensor = _Grouped.apply(qkv_N3Hd, *rotary, self._plan)  # type: ignore[no-untyped-call]
        return out


@dataclass(frozen=True)
class FlexAttention:
    """One kernel that skips the blocks of 128 x 128 in which nothing is allowed: for CUDA, compiled. It never ran there in
    our hands; on CPU only its forward pass runs, and that is tested.

    block_mask: of `FlexAttention.over`, built once a batch and shared by all layers.
    """

    block_mask: BlockMask

    @classmethod
    def over(
        cls, documents_N: Tensor, images_N: Tensor, hidden_N: Tensor | None = None, *, bidirectional: bool = True
    ) -> FlexAttention:
        """The kernel for elements as in `allowed`, on their device."""
        from torch.nn.attention.flex_attention import create_block_mask

        def allow(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            hidden = None if hidden_N is None else hidden_N[key]
            seen = _seen(query, key, images_N[query], images_N[key], hidden, bidirectional)
            return seen & (documents_N[query] == documents_N[key])

        length = len(documents_N)
        return cls(create_block_mask(allow, None, None, length, length, device=documents_N.device))

    def __call__(self, layer: int, qkv_N3Hd: Tensor, rotary: Rotary) -> Tensor:
        del layer
        kernel = _flex(compiled=qkv_N3Hd.is_cuda)
        q, k, v = (x.transpose(0, 1)[None] for x in turned(qkv_N3Hd, rotary))
        out: Tensor = kernel(q, k, v, block_mask=self.block_mask)
        return out[0].transpose(0, 1)


@cache
def _flex(*, compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Callable[..., Tensor] = torch.compile(flex_attention) if compiled else flex_attention  # type: ignore[assignment]
    return kernel


@dataclass(frozen=True)
class _Tile:
    """Queries `rows` of a document see keys before `end` only; from `first` on, where `hidden` (G, 1, rows, end - first) says."""

    rows: slice
    end: int
    first: int
    hidden: Tensor


@dataclass(frozen=True)
class _Group:
    first: int
    documents: int
    length: int
    tiles: list[_Tile]


def _tiles(mask_G1LL: Tensor) -> list[_Tile]:
    """What of a mask has to be computed: nothing right of the last key that some query of a tile sees."""
    length = mask_G1LL.shape[-1]
    tiles = []
    for start in range(0, length, _ROWS):
        rows = slice(start, min(start + _ROWS, length))
        here = mask_G1LL[:, :, rows]
        some, every = here.amax((0, 1, 2)), here.amin((0, 1, 2))
        end = int(some.nonzero()[-1]) + 1
        first = int((~every).nonzero()[0]) if not bool(every.all()) else end
        tiles.append(_Tile(rows, end, min(first, end), ~here[..., min(first, end) : end]))
    return tiles


class _Grouped(torch.autograd.Function):
    """Softmax attention, written out, group by group and tile by tile, with the turning of queries and keys.

    One tensor holds the three gradients, and what no query of a tile sees is not computed. On CPU a training step is faster
    than with torch's fused kernel, whose backward pass takes no mask cheaply.
    """

    @staticmethod
    def forward(ctx: Any, qkv_N3Hd: Tensor, cos_Nr: Tensor, sin_Nr: Tensor, groups: list[_Group]) -> Tensor:
        learns = ctx.needs_input_grad[0]
        out_NHd = torch.empty_like(qkv_N3Hd[:, 0])
        kept: list[Tensor] = []
        for group in groups:
            qkv_3GHLd = _to_heads(_of(group, qkv_N3Hd), _of(group, cos_Nr), _of(group, sin_Nr))
            q, k, v = qkv_3GHLd.flatten(1, 2)
            out_BLd = torch.empty_like(q)
            kept.append(qkv_3GHLd)
            for tile in group.tiles:
                weights = _weights(q, k, tile)
                out_BLd[:, tile.rows] = torch.bmm(weights, v[:, : tile.end])
                if learns and group.length <= _KEPT:
                    kept.append(weights)
            _of(group, out_NHd).copy_(out_BLd.unflatten(0, (group.documents, -1)).transpose(1, 2))
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
            gradient = _of(group, gradient_NHd).transpose(1, 2).flatten(0, 1)
            made = _backward(qkv_3GHLd, weights, gradient.contiguous(), group.tiles)
            _from_heads(made, _of(group, cos_Nr), _of(group, sin_Nr), _of(group, made_N3Hd))
        return made_N3Hd, None, None, None


def _of(group: _Group, x: Tensor) -> Tensor:
    """A group's elements of a tensor (N, ...): a view (G, L, ...)."""
    size = group.documents * group.length
    view: Tensor = x[group.first : group.first + size].unflatten(0, (group.documents, group.length))
    return view


def _weights(q: Tensor, k: Tensor, tile: _Tile) -> Tensor:
    """Attention weights (G H, rows, end) of a tile."""
    seen = k[:, : tile.end].transpose(1, 2)
    scores = torch.baddbmm(q.new_empty(()), q[:, tile.rows], seen, beta=0, alpha=q.shape[-1] ** -0.5)
    if tile.first < tile.end:
        per_document = scores[..., tile.first :].unflatten(0, (len(tile.hidden), -1))
        per_document.masked_fill_(tile.hidden, -torch.inf)
    weights: Tensor = scores.softmax(-1)
    return weights


def _backward(qkv_3GHLd: Tensor, kept: list[Tensor], gradient: Tensor, tiles: list[_Tile]) -> Tensor:
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


def group_mask(images_GL: Tensor, hidden_GL: Tensor | None = None, *, bidirectional: bool = True) -> Tensor:
    """The mask (G, 1, L, L) of documents of one length; images_GL and hidden_GL as in `allowed`, per document."""
    place = torch.arange(images_GL.shape[1], device=images_GL.device)
    hidden = None if hidden_GL is None else hidden_GL[:, None, :]
    seen = _seen(place[:, None], place[None, :], images_GL[:, :, None], images_GL[:, None, :], hidden, bidirectional)
    return seen.expand(len(images_GL), len(place), len(place))[:, None]
