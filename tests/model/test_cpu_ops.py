"""The written-out operations of a block against their plain forms: values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.model.cpu import ops
from stages.model.cpu.ops import linear, rms_norm, swiglu


def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def plain_swiglu(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def random_values(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype).requires_grad_()


@pytest.mark.parametrize(
    ("written_out", "plain", "shapes"),
    [
        (lambda x, w: rms_norm(x, w, 1e-5), plain_norm, [(7, 12), (12,)]),
        (lambda x, w: rms_norm(x, w, 1e-5), plain_norm, [(5, 3, 8), (8,)]),
        (swiglu, plain_swiglu, [(7, 12)]),
    ],
    ids=["norm", "norm of heads", "swiglu"],
)
def test_values_and_gradients_are_those_of_the_plain_form(
    written_out: Callable[..., Tensor], plain: Callable[..., Tensor], shapes: list[tuple[int, ...]]
) -> None:
    found = [random_values(*shape, dtype=torch.float64) for shape in shapes]
    expected = [value.detach().clone().requires_grad_() for value in found]
    weight = torch.randn(7, 6, dtype=torch.float64) if len(shapes) == 1 else torch.randn(shapes[0], dtype=torch.float64)
    for function, values in ((written_out, found), (plain, expected)):
        (function(*values) * weight).sum().backward()
    assert torch.allclose(written_out(*found), plain(*expected), atol=1e-12)
    for one, other in zip(found, expected, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-12)


def test_norm_gives_the_dtype_of_products_and_computes_in_float32() -> None:
    x = random_values(6, 16, dtype=torch.float32)
    weight = torch.ones(16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = rms_norm(x, weight, 1e-5)
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), plain_norm(x, weight), atol=0.02)
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_a_product_and_its_gradients_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = random_values(7, 12, dtype=torch.float32), random_values(20, 12, dtype=torch.float32)
    other_x, other_weight = (value.detach().clone().requires_grad_() for value in (x, weight))
    factor = torch.randn(7, 20)
    calls: list[int] = []
    real = ops.onednn_product
    monkeypatch.setattr(ops, "onednn_product", lambda *args: (calls.append(1), real(*args))[1])
    (linear(x, weight) * factor).sum().backward()
    assert len(calls) == 2, "forward and the gradient of x"
    (F.linear(other_x, other_weight) * factor).sum().backward()
    assert torch.allclose(linear(x, weight), F.linear(x, weight), atol=1e-6)
    for one, other in ((x, other_x), (weight, other_weight)):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_and_no_elements_are_left_to_torch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ops, "onednn_product")
    x, weight = random_values(7, 12, dtype=dtype), random_values(20, 12, dtype=dtype)
    assert torch.equal(linear(x, weight), F.linear(x, weight))
    nothing = torch.zeros(0, 12, requires_grad=True)
    linear(nothing, weight.detach().float().requires_grad_()).sum().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x.detach().float(), weight.detach().float()).dtype == torch.bfloat16
