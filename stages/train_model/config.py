"""The recipe section [train]: optimisation (paper, section 4.1) and what is measured on the way."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stages.core.config import Section, later, neutral
from stages.train_model.trackers import Tracker

Kernel = Literal["auto", "grouped", "dense", "flex"]


class TrainConfig(Section):
    """batch_rows: rows in a step. micro_rows: rows in one forward pass (0: all). final_learning_rate: where the rate ends.
    rate_schedule: after the warm-up a cosine (paper), or "wsd": the peak is held, and falls in the last decay_share of the
    steps, so that a run can be made longer without knowing its end from the start.

    start_from: the folder of a finished checkpoint whose weights (its running average, where there is one) begin this training,
    on new sequences of the same vocabulary, autoencoder and patches; the optimizer and the learning rate begin anew, at this
    recipe's settings. Empty: random weights.

    late_share: share of the steps, the last ones, that read the late rows of pack.late_weights, where there are such.

    optimizer: "adamw" (paper) or "muon": for the blocks' matrices an update in which all directions are alike in size, which
    learns in fewer steps; AdamW for the rest. beta1, beta2, epsilon: AdamW's; Muon takes torch's own settings.
    ema_decay: of the averaged weights that sampling uses; 0 keeps none (paper: not mentioned).
    attention: the kernel; all compute the same. "auto" takes "grouped" (documents of one length together) on CPU and "flex"
    (FlexAttention, compiled) on CUDA; "dense" is the reference, one mask over the whole batch.
    sharding: with several processes (torchrun), "none" gives each all weights; "full" cuts weights, gradients, optimizer and
    average over all of them; "hybrid" over groups of shard_group processes, with a copy in each group.
    checkpointing: what the blocks keep for the backward pass: "none" keeps all, "full" their inputs alone, "selective" also
    matrix products and attention; the rest is computed again. compile: torch.compile of each block; "auto": on CUDA only.
    Neither these nor the number of processes changes more than rounding, as a device does: they are no part of what a
    checkpoint is, and may change when a training goes on.
    eval_rows: held-out rows in each measurement of the held-out losses.
    keep_best: the weights that sampling uses are those of the measurement at which this figure was lowest; "": the last ones.
    preview_every: draw some held-out captions every so many steps, with the settings of [sample.generation] (0: never).
    on_nonfinite: of a loss or gradient that is not finite, "stop" before the optimizer step, or "skip" the step, at most
    skip_limit in a row: a training that neither happens to is the same with both, and one that was stopped may go on with
    "skip". trackers: where figures go beside the checkpoint's own files, such as [{ kind = "tensorboard" }].
    """

    start_from: str = neutral("")  # the checkpoint's digest is in the fingerprint, wherever it lies
    steps: int = Field(1000, ge=1)
    late_share: float = Field(0.01, ge=0, le=1)
    batch_rows: int = Field(4, ge=1)
    micro_rows: int = Field(0, ge=0)
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(3e-4, gt=0)
    rate_schedule: Literal["cosine", "wsd"] = "cosine"
    decay_share: float = Field(0.2, gt=0, le=1)
    final_learning_rate: float = Field(1.5e-5, ge=0)
    warmup_steps: int = Field(4000, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    attention: Kernel = "auto"
    eval_every: int = Field(250, ge=1)
    eval_rows: int = Field(8, ge=1)
    keep_best: Literal["", "heldout_image_loss", "heldout_text_loss"] = later("")
    on_nonfinite: Literal["stop", "skip"] = neutral("stop")
    skip_limit: int = neutral(8, ge=1)
    preview_every: int = neutral(0, ge=0)
    save_every: int = neutral(250, ge=1)
    keep_saves: int = neutral(2, ge=1)
    log_every: int = neutral(10, ge=1)
    trackers: tuple[Tracker, ...] = neutral(())
    sharding: Literal["none", "full", "hybrid"] = neutral("none")
    shard_group: int = neutral(0, ge=0)
    checkpointing: Literal["none", "full", "selective"] = neutral("none")
    compile: bool | Literal["auto"] = neutral("auto")

    @model_validator(mode="after")
    def _groups_belong_to_hybrid(self) -> TrainConfig:
        if (self.sharding == "hybrid") != (self.shard_group > 0):
            raise ValueError('shard_group goes with sharding = "hybrid", which needs it')
        return self
