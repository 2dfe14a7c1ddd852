"""The mask and its kernels.

allow(query, key) = same document AND (key <= query OR both are patches of the same image)   (paper, section 3, fig. 4)

BOI and EOI are outside the bidirectional block. The patches of a private image (one that later elements see as a clean copy)
are visible to that image alone: AND (key is not private OR both are patches of the same image).

A kernel is called once a layer with queries, keys and values of all N elements in one tensor, the output of the projection,
and the angles from `rotary_table`; it rotates queries and keys and returns the attention output (N, H, d). Legend: N
elements, H heads, d head size; G documents of a group, L their length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.model.rotary import Rotary, apply_rotary

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class Attention(Protocol):
    """A kernel with the mask of one batch inside."""

    def __call__(self, layer: int, qkv_N3Hd: Tensor, rotary: Rotary) -> Tensor: ...


class RotatedAttention(Protocol):
    """A kernel that also takes queries and keys that are rotated already, as the fused blocks of inference give them."""

    def attend(self, layer: int, q_NHd: Tensor, k_NHd: Tensor, v_NHd: Tensor) -> Tensor:
        """What each element reads, (N, H, d)."""


def allowed(
    documents_N: Tensor, images_N: Tensor, private_N: Tensor | None = None, *, bidirectional: bool = True
) -> Tensor:
    """The mask (N, N), True where the query (row) may see the key (column): the reference for every kernel.

    Args:
        documents_N: document of each element.
        images_N: image of each element, -1 outside images; unique in the batch, a clean copy is an image of its own.
        private_N: True for patches that only their own image sees (None: there are none).
        bidirectional: False is the paper's ablation (table 5): causal inside images as well.
    """
    index = torch.arange(len(documents_N), device=documents_N.device)
    private = None if private_N is None else private_N[None, :]
    visible = _visible(index[:, None], index[None, :], images_N[:, None], images_N[None, :], private, bidirectional)
    return visible & (documents_N[:, None] == documents_N[None, :])


def _visible(
    query: Tensor, key: Tensor, query_image: Tensor, key_image: Tensor, key_private: Tensor | None, bidirectional: bool
) -> Tensor:
    """The rule inside a document, for indices that broadcast. Every kernel's mask follows from it."""
    visible = key <= query
    if not bidirectional and key_private is None:
        return visible
    same_image = (query_image == key_image) & (query_image >= 0)
    if bidirectional:
        visible = visible | same_image
    return visible if key_private is None else visible & (same_image | ~key_private)


@dataclass(frozen=True)
class DenseAttention:
    """One mask (N, N) over the whole batch: slow, and the reference that the fast path is tested against."""

    mask_NN: Tensor

    def __call__(self, layer: int, qkv_N3Hd: Tensor, rotary: Rotary) -> Tensor:
        return self.attend(layer, *apply_rotary(qkv_N3Hd, rotary))

    def attend(self, layer: int, q_NHd: Tensor, k_NHd: Tensor, v_NHd: Tensor) -> Tensor:
        """What each element reads, (N, H, d), from rotated queries and keys."""
        del layer
        q, k, v = (x.transpose(0, 1)[None] for x in (q_NHd, k_NHd, v_NHd))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask_NN)[0].transpose(0, 1)


@dataclass(frozen=True)
class FlexAttention:
    """One kernel that skips the blocks of 128 x 128 in which nothing is visible: for CUDA, compiled. It has not been run on CUDA
    yet; on CPU only its forward pass works, and that is tested.

    block_mask: built once a batch by `FlexAttention.build`, and shared by all layers.
    """

    block_mask: BlockMask

    @classmethod
    def build(
        cls, documents_N: Tensor, images_N: Tensor, private_N: Tensor | None = None, *, bidirectional: bool = True
    ) -> FlexAttention:
        """The kernel for the elements that `allowed` describes, on their device."""

        def allow(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            private = None if private_N is None else private_N[key]
            visible = _visible(query, key, images_N[query], images_N[key], private, bidirectional)
            return visible & (documents_N[query] == documents_N[key])

        length = len(documents_N)
        make = _block_mask_maker(compiled=documents_N.is_cuda)
        return cls(make(allow, None, None, length, length, device=documents_N.device))

    def __call__(self, layer: int, qkv_N3Hd: Tensor, rotary: Rotary) -> Tensor:
        del layer
        kernel = _flex(compiled=qkv_N3Hd.is_cuda)
        q, k, v = (x.transpose(0, 1)[None] for x in apply_rotary(qkv_N3Hd, rotary))
        out: Tensor = kernel(q, k, v, block_mask=self.block_mask)
        return out[0].transpose(0, 1)


@cache
def _block_mask_maker(*, compiled: bool) -> Callable[..., Any]:
    """Uncompiled it materializes the mask (N, N), 7 bytes an entry, to find its blocks: 2 GB for 16,608 elements."""
    from torch.nn.attention.flex_attention import create_block_mask

    return torch.compile(create_block_mask, dynamic=True) if compiled else create_block_mask


@cache
def _flex(*, compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Callable[..., Tensor] = torch.compile(flex_attention) if compiled else flex_attention  # type: ignore[assignment]
    return kernel


def group_mask(images_GL: Tensor, private_GL: Tensor | None = None, *, bidirectional: bool = True) -> Tensor:
    """The mask (G, 1, L, L) of documents of one length. images_GL, private_GL: see `allowed`, a row for each document."""
    index = torch.arange(images_GL.shape[1], device=images_GL.device)
    private = None if private_GL is None else private_GL[:, None, :]
    query_image, key_image = images_GL[:, :, None], images_GL[:, None, :]
    visible = _visible(index[:, None], index[None, :], query_image, key_image, private, bidirectional)
    return visible.expand(len(images_GL), len(index), len(index))[:, None]
