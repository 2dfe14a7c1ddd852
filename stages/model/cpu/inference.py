"""A trained model optimized for inference: weights cast once and prepacked for the processor, every t embedded once.

The forward pass is the model's own; its blocks, the linear layers outside them and the embedding of t are replaced. In
float32 results change by rounding only. In bf16 the blocks and the text head multiply in bf16, while the residual stream, the
norms and the patch codec stay float32.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.model.attention import Attention, RotatedAttention
from stages.model.cpu.ops import onednn_product
from stages.model.rotary import Rotary
from stages.model.transformer import Block, RMSNorm, Transfusion

_ROWS = 128  # of the input for which a weight is prepacked
_PLAIN_BYTES = 2**30  # of all blocks together, up to which their weights are kept unpacked as well


def _has_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies in that dtype on this machine."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class PackedLinear(nn.Module):
    """A linear layer whose input is cast to the dtype of its weight.

    On CPU oneDNN packs the weight once and not at every call: 1.1 to 1.3 times as fast for 128 elements, 1.5 to 2 times for
    one to 16 (width 384, one core, float32 and bf16).
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        weight = linear.weight.detach()
        self.prepacked = weight.device.type == "cpu" and _has_onednn(dtype)
        self.weight = _prepack(weight, dtype) if self.prepacked else weight.to(dtype)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if not self.prepacked:
            return F.linear(x, self.weight, self.bias)
        return onednn_product(x, self.weight, self.bias)


class FusedBlock(nn.Module):
    """`Block` on CPU in fewer passes over memory and fewer calls.

    The weights of its norms are folded into the products after them; SiLU, the gate and, in float32, both residual additions
    are done inside the products. Rows of the queries' and keys' weights are reordered so that the two numbers that rotate
    together are adjacent: one complex product rotates them, and their scores stay the same. A single element, which is a step
    of writing one document, is multiplied by the unpacked weights in float32: 1.2 to 2.3 times as fast (MKL).
    """

    def __init__(self, block: Block, dtype: torch.dtype, *, plain: bool) -> None:
        """plain: keep the weights unpacked as well."""
        super().__init__()
        self.heads, self.epsilon, self.dtype = block.heads, block.attention_norm.epsilon, dtype
        width = block.attention_out.in_features
        order = _interleaved_order(width // self.heads)
        qkv_3Hdw = fold_norm_weight(block.attention_norm, block.qkv).unflatten(0, (3, self.heads, -1))
        qkv = torch.cat((qkv_3Hdw[:2, :, order], qkv_3Hdw[2:])).flatten(0, 2)
        gate_up = fold_norm_weight(block.feed_forward_norm, block.gate_up)
        out, down = block.attention_out.weight.detach(), block.down.weight.detach()
        self.head_norms: tuple[RMSNorm, RMSNorm] | None = None
        if block.query_norm is not None and block.key_norm is not None:
            self.head_norms = _reordered(block.query_norm, order), _reordered(block.key_norm, order)
        self.qkv, self.attention_out, self.down = (_prepack(weight, dtype) for weight in (qkv, out, down))
        self.gate, self.up = (_prepack(weight, dtype) for weight in gate_up.chunk(2))
        self.plain = (qkv, out, gate_up, down) if plain else None

    def forward(self, x_ND: Tensor, rotary: Rotary, attention: Attention, layer: int) -> Tensor:
        if self.plain is not None and len(x_ND) == 1:
            return self.forward_single(x_ND, rotary, attention, layer, self.plain)
        qkv_ND = onednn_product(self._normed(x_ND), self.qkv)
        x_ND = self._add_to_stream(x_ND, self._attend(qkv_ND, rotary, attention, layer), self.attention_out)
        normed_ND = self._normed(x_ND)
        gate_NF = onednn_product(normed_ND, self.gate, then="swish")
        return self._add_to_stream(x_ND, linear_binary(normed_ND, gate_NF, self.up, "mul"), self.down)

    def forward_single(
        self,
        x_1D: Tensor,
        rotary: Rotary,
        attention: Attention,
        layer: int,
        plain: tuple[Tensor, ...],
    ) -> Tensor:
        """`forward` for one element: norms are a factor of the product after them, additions a part of it."""
        qkv_ED, out_DE, gate_up_ED, down_DF = plain
        x_D = x_1D[0]
        unused = x_D[:1]  # addmv does not read it where beta is 0
        qkv_E = torch.addmv(unused, qkv_ED, x_D, beta=0, alpha=self._factor(x_D))
        attended_1E = self._attend(qkv_E[None], rotary, attention, layer)
        x_D = torch.addmv(x_D, out_DE, attended_1E[0])
        gate_F, up_F = torch.addmv(unused, gate_up_ED, x_D, beta=0, alpha=self._factor(x_D)).chunk(2)
        return torch.addmv(x_D, down_DF, F.silu(gate_F).mul_(up_F))[None]

    def _attend(self, qkv_ND: Tensor, rotary: Rotary, attention: Attention, layer: int) -> Tensor:
        """The attention output (N, D); in qkv_ND queries, keys and values are concatenated."""
        count, heads = len(qkv_ND), self.heads
        qkv_N3Hd = qkv_ND.view(count, 3, heads, -1)
        if self.head_norms is not None:
            query_norm, key_norm = self.head_norms
            q, k, v = qkv_N3Hd.unbind(1)
            qkv_N3Hd = torch.stack((query_norm(q), key_norm(k), v), dim=1)
        pairs_N2Hr = torch.view_as_complex(qkv_N3Hd[:, :2].float().view(count, 2, heads, -1, 2))
        rotated_N2Hr = pairs_N2Hr * torch.complex(*rotary).view(count, 1, 1, -1)
        q_NHd, k_NHd = torch.view_as_real(rotated_N2Hr).view(count, 2, heads, -1).to(qkv_ND.dtype).unbind(1)
        return cast(RotatedAttention, attention).attend(layer, q_NHd, k_NHd, qkv_N3Hd[:, 2]).flatten(1)

    def _factor(self, x_D: Tensor) -> float:
        """1 / rms(x)."""
        norm: float = torch.linalg.vector_norm(x_D).item()
        return 1 / math.sqrt(norm * norm / len(x_D) + self.epsilon)

    def _normed(self, x_ND: Tensor) -> Tensor:
        norm_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
        scale_N1 = (norm_N1.square_() / x_ND.shape[-1]).add_(self.epsilon).rsqrt_()
        normed: Tensor = (x_ND * scale_N1).to(self.dtype)
        return normed

    def _add_to_stream(self, x_ND: Tensor, input_NE: Tensor, weight_DE: Tensor) -> Tensor:
        if x_ND.dtype == self.dtype:
            return linear_binary(input_NE, x_ND, weight_DE, "add")
        return x_ND + onednn_product(input_NE, weight_DE)


def _interleaved_order(head_dim: int) -> Tensor:
    """The order of a head's numbers in which i and i + d / 2, which rotate together (`rotary.rotate`), are adjacent."""
    return torch.arange(head_dim).view(2, -1).t().flatten()


def _reordered(norm: RMSNorm, order: Tensor) -> RMSNorm:
    reordered = RMSNorm(len(order), norm.epsilon)
    reordered.weight = nn.Parameter(norm.weight.detach()[order], requires_grad=False)
    return reordered


def fold_norm_weight(norm: RMSNorm, linear: nn.Linear) -> Tensor:
    """The weight of a linear layer multiplied by that of the norm before it."""
    return linear.weight.detach() * norm.weight.detach()


def _prepack(weight: Tensor, dtype: torch.dtype) -> Tensor:
    out: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), _ROWS)
    return out


def linear_binary(x_ND: Tensor, other_NE: Tensor, weight_ED: Tensor, operation: str) -> Tensor:
    """x times the transposed weight, then "add" or "mul" with the other."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x_ND, other_NE, weight_ED, None, operation)
    return out


class TimeTable(nn.Module):
    """The embeddings of all t in a table."""

    def __init__(self, embedding: nn.Module, num_steps: int, device: torch.device) -> None:
        super().__init__()
        self.vectors: Tensor = embedding(torch.arange(num_steps + 1, device=device))

    def forward(self, t_I: Tensor) -> Tensor:
        return self.vectors[t_I]


@torch.inference_mode()
def optimize_for_inference(model: Transfusion, dtype: torch.dtype, num_steps: int) -> Transfusion:
    """The model itself, with float32 weights, changed in place and for good: it cannot be trained or saved after this. dtype: of
    products in the blocks and the text head. num_steps: T of the schedule."""
    weight = model.text_embedding.weight
    model.patches.time = TimeTable(model.patches.time, num_steps, weight.device)  # type: ignore[assignment]
    if weight.device.type == "cpu" and _has_onednn(dtype):
        total = sum(weight.nbytes for weight in model.blocks.parameters())
        plain = dtype == torch.float32 and total <= _PLAIN_BYTES and torch.backends.mkl.is_available()
        for number, block in enumerate(model.blocks):  # one after the other: never all of them in memory twice
            model.blocks[number] = FusedBlock(cast(Block, block), dtype, plain=plain)
    for name, module in list(model.named_modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, child_name, PackedLinear(child, weight.dtype if name.startswith("patches") else dtype))
    return model.eval()


def key_value_dtype(model: Transfusion) -> torch.dtype:
    """The dtype of keys and values, which a cache of them has as well."""
    block = model.blocks[0]
    dtype: torch.dtype = block.dtype if isinstance(block, FusedBlock) else block.qkv.weight.dtype  # type: ignore[union-attr, assignment]
    return dtype
