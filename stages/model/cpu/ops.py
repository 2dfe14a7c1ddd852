"""Operations of a block with their backward passes written out, for CPU: fewer passes over memory than autograd's own.

Each has its plain form as well, which is the reference (tests/model/test_cpu_ops.py). The plain form runs on CUDA, where
torch.compile fuses it, in code that is compiled on CPU, and where no gradient is wanted, since a node of autograd costs 15
microseconds a call even then. Legend: N elements, D width, F feed-forward width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x_ND: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    """x / rms(x) * weight over the last dimension (Zhang and Sennrich 2019), in the dtype of autocast's matrix products."""
    if _plain(x_ND):
        return F.rms_norm(x_ND, x_ND.shape[-1:], weight_D.to(x_ND.dtype), epsilon)
    out: Tensor = _RmsNorm.apply(x_ND.flatten(0, -2), weight_D, epsilon, matmul_dtype(x_ND))  # type: ignore[no-untyped-call]
    return out.view(x_ND.shape)


def swiglu(gate_up_N2F: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020)."""
    if _plain(gate_up_N2F):
        gate, up = gate_up_N2F.chunk(2, dim=-1)
        return F.silu(gate) * up
    out: Tensor = _SwiGlu.apply(gate_up_N2F)  # type: ignore[no-untyped-call]
    return out


def linear(x_ND: Tensor, weight_ED: Tensor) -> Tensor:
    """x times the transposed weight, (N, E). In float32 on CPU by oneDNN, where torch uses MKL: a step of 20 M parameters is
    1.02 to 1.05 times as fast (two cores with AVX-512). The gradient of the weight is left to MKL, which is faster for it."""
    float32 = matmul_dtype(x_ND) == weight_ED.dtype == torch.float32
    if _plain(x_ND) or not (float32 and len(x_ND) and torch.backends.mkldnn.is_available()):
        return F.linear(x_ND, weight_ED)
    out: Tensor = _Linear.apply(x_ND, weight_ED)  # type: ignore[no-untyped-call]
    return out


def _plain(x: Tensor) -> bool:
    return x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling()


def matmul_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a matrix product with `x` here: autocast's, or its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_ED: Tensor) -> Tensor:
        ctx.save_for_backward(x_ND, weight_ED)
        return onednn_product(x_ND, weight_ED)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x_ND, weight_ED = ctx.saved_tensors
        return onednn_product(gradients[0], weight_ED.t()), gradients[0].t() @ x_ND


def onednn_product(x_ND: Tensor, weight_ED: Tensor, bias_E: Tensor | None = None, then: str = "none") -> Tensor:
    """x times the transposed weight, which oneDNN may have prepacked, then "swish" (SiLU) or "none"; no gradient."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x_ND, weight_ED, bias_E, then, [], "")
    return out


class _RmsNorm(torch.autograd.Function):
    """Saves x, which the residual stream holds anyway, and one number an element."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_D: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        norm_N1 = torch.linalg.vector_norm(
            x_ND, dim=-1, keepdim=True, dtype=torch.promote_types(x_ND.dtype, torch.float32)
        )
        scale_N1 = (norm_N1.square() / x_ND.shape[-1] + epsilon).rsqrt()
        ctx.save_for_backward(x_ND, weight_D, scale_N1)
        out: Tensor = (x_ND * scale_N1).mul_(weight_D).to(dtype)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_ND, weight_D, scale_N1 = ctx.saved_tensors
        gradient_ND = gradients[0].to(scale_N1.dtype)
        product_ND = gradient_ND * x_ND
        weight_gradient_D = product_ND.mT @ scale_N1[:, 0]
        projection_N1 = (product_ND @ weight_D.to(scale_N1.dtype))[:, None] * (scale_N1**3 / x_ND.shape[-1])
        x_gradient_ND = (
            torch.mul(gradient_ND, weight_D, out=product_ND).mul_(scale_N1).addcmul_(x_ND, projection_N1, value=-1)
        )
        return x_gradient_ND.to(x_ND.dtype), weight_gradient_D.to(weight_D.dtype), None, None


class _SwiGlu(torch.autograd.Function):
    """Saves its input only; both gradients are written into one tensor."""

    @staticmethod
    def forward(ctx: Any, gate_up_N2F: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up_N2F)
        gate, up = gate_up_N2F.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gate_up_N2F,) = ctx.saved_tensors
        gate, up = gate_up_N2F.chunk(2, dim=-1)
        out = torch.empty_like(gate_up_N2F)
        gate_out, up_out = out.chunk(2, dim=-1)
        torch.mul(F.silu(gate), gradients[0], out=up_out)
        torch.ops.aten.silu_backward.grad_input(gradients[0] * up, gate, grad_input=gate_out)
        return out
