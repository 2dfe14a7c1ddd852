"""AdamW with the paper's settings or Muon, the learning rate as a function of the step, and the running average of weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from stages.model.transformer import Transfusion
from stages.train_model.config import TrainConfig
from stages.train_model.distributed.ranks import is_cut, let_go, part, part_for, whole


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up to the peak, then down to the final rate at the last step: by a cosine (paper, section 4.1), or held and
    at the end by 1 - sqrt of the way (warm-up, stable, decay; Haegele et al. 2024, section 3.1)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.rate_schedule == "wsd":
        first = max(config.warmup_steps, config.steps - math.ceil(config.decay_share * config.steps))
        progress = max(0, step - first) / max(1, config.steps - first)
        share = 1 - math.sqrt(min(1.0, progress))
    else:
        progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        share = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * share


def build_optimizers(model: Transfusion, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all weights (the paper's); or Muon for the matrices of the blocks and AdamW for the rest.

    Matrices decay; norms, biases and embeddings do not (the paper does not say; Llama's habit). Muon's updates are scaled
    to the size of AdamW's, so that both live with the same learning rate and decay (Liu et al. 2025, arXiv 2502.16982).
    """
    in_blocks: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        if weight.ndim < 2 or name.startswith("text_embedding"):
            plain.append(weight)
        elif config.optimizer == "muon" and name.startswith("blocks."):
            in_blocks.append(weight)
        else:
            decayed.append(weight)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    betas = (config.beta1, config.beta2)
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.epsilon, fused=True)
    if not in_blocks:
        return [adamw]
    # queries, keys and values are one matrix here, and so are gate and up: they are orthogonalised together
    rate, decay = config.learning_rate, config.weight_decay
    muon = CutMuon if is_cut(model) else torch.optim.Muon
    return [muon(in_blocks, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"), adamw]


class CutMuon(torch.optim.Muon):
    """Muon over matrices of which each process holds a part: the update is gathered, made orthogonal as a whole on every
    process, and each takes its part of that. Momentum is cut as the weights are."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, by the arithmetic of torch.optim.Muon."""
        assert closure is None
        for group in self.param_groups:
            momentum = group["momentum"]
            for weight in group["params"]:
                slots = self.state[weight]
                if not slots:
                    slots["momentum_buffer"] = torch.zeros_like(weight.grad)
                slots["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                update = whole(weight.grad.lerp(slots["momentum_buffer"], momentum))
                update = _zeropower_via_newtonschulz(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                rate = _adjust_lr(group["lr"], group["adjust_lr_fn"], weight.shape)
                part(weight).mul_(1 - group["lr"] * group["weight_decay"])
                part(weight).add_(part_for(weight, update), alpha=-rate)


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, step: int, decay: float) -> None:
    """ema += (1 - d) (weights - ema), in place; d rises from 0.1 so that the first steps are forgotten soon."""
    if not average:
        return
    rate = 1 - min(decay, (1 + step) / (10 + step))
    weights = [part(weight.detach()) for weight in model.parameters()]
    torch._foreach_lerp_([part(mean) for mean in average.values()], weights, rate)


@contextmanager
def averaged_weights(model: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """The model with the running average in place of its weights, for the length of the block (no copy). Where weights are cut
    the two change their contents, as what is gathered comes from the weights' own memory."""
    if not average:
        yield
        return
    if is_cut(model):
        _exchange(model, average)
        try:
            yield
        finally:
            _exchange(model, average)
        return
    weights = {name: weight.data for name, weight in model.named_parameters()}
    try:
        for name, weight in model.named_parameters():
            weight.data = average[name]
        yield
    finally:
        for name, weight in model.named_parameters():
            weight.data = weights[name]


@torch.no_grad()
def _exchange(model: nn.Module, average: dict[str, Tensor]) -> None:
    let_go(model)
    for name, weight in model.named_parameters():
        one, other = part(weight.detach()), part(average[name])
        held = one.clone()
        one.copy_(other)
        other.copy_(held)
