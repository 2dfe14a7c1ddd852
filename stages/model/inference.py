"""A trained model made ready to be run only: weights cast once and laid out for the processor, times embedded once.

The forward pass is the model's own; what is replaced are the linear layers inside it and the embedding of t. Changes results
by rounding alone in float32; in bf16 blocks and text head multiply, while the stream, the norms and the way in and out of
images stay float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.model.fused import onednn_product
from stages.model.transformer import Transfusion


class ReadyLinear(nn.Module):
    """A linear layer whose input is cast to the type of its weight.

    On CPU the weight is laid out by oneDNN once and not at every call: 1.1 to 1.3 times as fast for 128 elements, 1.5 to 2
    times for one to 16 (width 384, one core, float32 and bf16).
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        weight = linear.weight.detach().to(dtype)
        self.laid_out = weight.device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, 128) if self.laid_out else weight
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if not self.laid_out:
            return F.linear(x, self.weight, self.bias)
        return onednn_product(x, self.weight, self.bias)


class TimeTable(nn.Module):
    """The embedding of every t, looked up."""

    def __init__(self, embedding: nn.Module, num_steps: int, device: torch.device) -> None:
        super().__init__()
        self.vectors: Tensor = embedding(torch.arange(num_steps + 1, device=device))

    def forward(self, t_I: Tensor) -> Tensor:
        return self.vectors[t_I]


@torch.inference_mode()
def ready_to_run(model: Transfusion, dtype: torch.dtype, num_steps: int) -> Transfusion:
    """The model itself, changed in place for good: it cannot be trained or saved after this. dtype: of products in
    the blocks and the text head. num_steps: T of the schedule."""
    weight = model.text_embedding.weight
    model.patches.time = TimeTable(model.patches.time, num_steps, weight.device)  # type: ignore[assignment]
    for name, module in list(model.named_modules()):
        for part, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, part, ReadyLinear(child, weight.dtype if name.startswith("patches") else dtype))
    return model.eval()


def working_type(model: Transfusion) -> torch.dtype:
    """The type of keys and values."""
    dtype: torch.dtype = model.blocks[0].qkv.weight.dtype  # type: ignore[union-attr, assignment]
    return dtype
