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
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.model.rotary import Rotary, turned

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class Attention(Protocol):
    """A kernel with the mask of one batch inside."""

    def __call__(self, layer: int, qkv_N3Hd: Tensor, rotary: Rotary) -> Tensor: ...


class OverTurned(Protocol):
    """A kernel of generation: it also takes queries and keys that are turned already."""

    def over(self, layer: int, q_NHd: Tensor, k_NHd: Tensor, v_NHd: Tensor) -> Tensor: ...


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
        return self.over(layer, *turned(qkv_N3Hd, rotary))

    def over(self, layer: int, q_NHd: Tensor, k_NHd: Tensor, v_NHd: Tensor) -> Tensor:
        del layer
        q, k, v = (x.transpose(0, 1)[None] for x in (q_NHd, k_NHd, v_NHd))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask_NN)[0].transpose(0, 1)


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

        def allow(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            hidden = None if hidden_N is None else hidden_N[key]
            seen = _seen(query, key, images_N[query], images_N[key], hidden, bidirectional)
            return seen & (documents_N[query] == documents_N[key])

        length = len(documents_N)
        make = _block_mask_maker(compiled=documents_N.is_cuda)
        return cls(make(allow, None, None, length, length, device=documents_N.device))

    def __call__(self, layer: int, qkv_N3Hd: Tensor, rotary: Rotary) -> Tensor:
        del layer
        kernel = _flex(compiled=qkv_N3Hd.is_cuda)
        q, k, v = (x.transpose(0, 1)[None] for x in turned(qkv_N3Hd, rotary))
        out: Tensor = kernel(q, k, v, block_mask=self.block_mask)
        return out[0].transpose(0, 1)


@cache
def _block_mask_maker(*, compiled: bool) -> Callable[..., Any]:
    """Uncompiled it writes the whole mask of N x N down, 7 bytes a place, to find its blocks: 2 GB for 16,608 elements."""
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask, dynamic=True) if compiled else create_block_mask


@cache
def _flex(*, compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Callable[..., Tensor] = torch.compile(flex_attention) if compiled else flex_attention  # type: ignore[assignment]
    return kernel


def group_mask(images_GL: Tensor, hidden_GL: Tensor | None = None, *, bidirectional: bool = True) -> Tensor:
    """The mask (G, 1, L, L) of documents of one length; images_GL and hidden_GL as in `allowed`, per document."""
    place = torch.arange(images_GL.shape[1], device=images_GL.device)
    hidden = None if hidden_GL is None else hidden_GL[:, None, :]
    seen = _seen(place[:, None], place[None, :], images_GL[:, :, None], images_GL[:, None, :], hidden, bidirectional)
    return seen.expand(len(images_GL), len(place), len(place))[:, None]
