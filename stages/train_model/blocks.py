"""How the transformer's blocks run in training: activation checkpointing and torch.compile.

Neither changes what a block computes: recomputed activations come from the same operators (bit for bit on CPU), and compiled
blocks are equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from stages.model.transformer import Transfusion
from stages.train_model.config import TrainConfig

_aten = torch.ops.aten
# What is slow to recompute: matrix products and fused attention. Norms, rotary embeddings and gates are cheap.
_KEPT = {
    _aten.mm.default,
    _aten.bmm.default,
    _aten.addmm.default,
    torch.ops.mkldnn._linear_pointwise.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.higher_order.flex_attention,
}


def prepare_blocks(network: Transfusion, train: TrainConfig, device: torch.device) -> None:
    """Apply train.checkpointing and train.compile to the blocks, in place; names of weights do not change. "auto" compiles on
    CUDA only, where it has never been run by us."""
    compiled = train.compile is True or (train.compile == "auto" and device.type == "cuda")
    for block in network.blocks:
        forward: Callable[..., Any] = block.forward
        if compiled and device.type == "cpu":
            forward = _around_attention(forward)
        if train.checkpointing != "none":
            options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
            if train.checkpointing == "selective":
                options["context_fn"] = partial(create_selective_checkpoint_contexts, _keep)
            forward = partial(checkpoint, forward, **options)
        if compiled and device.type != "cpu":
            forward = torch.compile(forward, dynamic=True)  # FlexAttention is compiled into it
        if forward is not block.forward:
            block.forward = forward


def _around_attention(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A block compiled without its attention: the grouped kernel has other groups in every batch, and its own backward pass.
    With checkpointing this is what is recomputed; "selective" then keeps the output of attention."""
    compiled = torch.compile(forward, dynamic=True)

    def run(x_ND: Any, rotary: Any, attention: Any, layer: int) -> Any:
        return compiled(x_ND, rotary, torch.compiler.disable(attention.__call__), layer)

    return run


def _keep(_context: Any, operator: Any, *_args: Any, **_options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
