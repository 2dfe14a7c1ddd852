"""The optimizers (AdamW as in the paper, or Muon), the learning rate schedule, and the running average of weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stages.model.transformer import Transfusion
from stages.train_model.config import TrainConfig
from stages.train_model.distributed.ranks import full_tensor, is_sharded, local_shard, reshard, shard_like


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of step `step` (from 0): linear warm-up to the peak, then decay to the final rate at the last step.

    rate_schedule "cosine" (paper, section 4.1) decays along a cosine; "wsd" (warm-up, stable, decay; Haegele et al. 2024, section
    3.1) holds the peak and decays as 1 - sqrt(progress) over the last decay_share of the steps.
    """
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
    """AdamW for all weights (paper), or Muon for the matrices of the blocks and AdamW for the rest.

    Matrices have weight decay; norms, biases and embeddings have none (as in Llama; the paper does not say). Muon's updates are
    scaled to the size of AdamW's, so that both use the same learning rate and weight decay (Liu et al. 2025, arXiv 2502.16982).
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
    muon = ShardedMuon if is_sharded(model) else torch.optim.Muon
    return [muon(in_blocks, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"), adamw]


class ShardedMuon(torch.optim.Muon):
    """Muon over sharded matrices: the full update is gathered and orthogonalised on every rank, and each rank applies its
    shard of it. Momentum is sharded like the weights."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, with the arithmetic of torch.optim.Muon."""
        # private names of torch: imported here, so that a rename there breaks only Muon on sharded weights
        from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

        assert closure is None
        for group in self.param_groups:
            momentum = group["momentum"]
            for weight in group["params"]:
                slots = self.state[weight]
                if not slots:
                    slots["momentum_buffer"] = torch.zeros_like(weight.grad)
                slots["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                update = full_tensor(weight.grad.lerp(slots["momentum_buffer"], momentum))
                update = _zeropower_via_newtonschulz(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                rate = _adjust_lr(group["lr"], group["adjust_lr_fn"], weight.shape)
                local_shard(weight).mul_(1 - group["lr"] * group["weight_decay"])
                local_shard(weight).add_(shard_like(weight, update), alpha=-rate)


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, step: int, decay: float) -> None:
    """ema += (1 - d) (weights - ema), in place, with d = min(decay, (1 + step) / (10 + step)): small at first, so that the
    initial weights are soon forgotten."""
    if not average:
        return
    rate = 1 - min(decay, (1 + step) / (10 + step))
    weights = [local_shard(weight.detach()) for weight in model.parameters()]
    torch._foreach_lerp_([local_shard(mean) for mean in average.values()], weights, rate)


@contextmanager
def averaged_weights(model: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """The model with the running average in place of its weights, inside the `with` block. Nothing is copied, unless weights are
    sharded: FSDP gathers from the weights' own memory, so the two exchange their contents."""
    if not average:
        yield
        return
    if is_sharded(model):
        _swap(model, average)
        try:
            yield
        finally:
            _swap(model, average)
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
def _swap(model: nn.Module, average: dict[str, Tensor]) -> None:
    reshard(model)
    for name, weight in model.named_parameters():
        one, other = local_shard(weight.detach()), local_shard(average[name])
        held = one.clone()
        one.copy_(other)
        other.copy_(held)
