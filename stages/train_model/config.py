"""The recipe section [train]: optimisation (paper, section 4.1) and what is measured on the way."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.core.config import Section, later, neutral
from stages.train_model.trackers import Tracker

VERSION = 5  # of the stage; raised where the same settings give other bytes

Kernel = Literal["auto", "grouped", "dense", "flex"]


class TrainConfig(Section):
    """How the model is trained (paper, section 4.1), and what is measured, saved and reported on the way."""

    start_from: str = neutral("")  # the checkpoint's digest is in the fingerprint, wherever it lies
    """Folder of a finished checkpoint whose weights this training begins with (fine-tuning): the running average where it has
    one. Tokenizer, autoencoder, patches and model must be the same. Optimizer and learning rate start new. Empty: random
    weights (paper)."""
    steps: int = Field(1000, ge=1)
    """Optimizer steps (paper: 250,000; the large run 500,000)."""
    late_share: float = Field(0.01, ge=0, le=1)
    """Share of the steps, the last ones, that read the rows of pack.late_weights, where there are such (paper: 1 %)."""
    batch_rows: int = Field(4, ge=1)
    """Rows of each optimizer step, of all processes together. Times pack.row_length it is the batch in elements (paper: 2 M)."""
    micro_rows: int = Field(0, ge=0)
    """Rows of one forward pass; a step of more rows accumulates gradients over several passes, which needs less memory. 0: all
    rows of a process at once."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """The optimizer: "adamw" (paper), or "muon", orthogonalised updates for the matrices of the blocks, which needs fewer steps,
    with AdamW for all other weights."""
    learning_rate: float = Field(3e-4, gt=0)
    """The highest learning rate, after the warm-up (paper: 3e-4)."""
    rate_schedule: Literal["cosine", "wsd"] = "cosine"
    """How the learning rate falls after the warm-up: by a cosine to the last step (paper), or "wsd": constant, and down in the
    last decay_share of the steps, so that the constant part can be made longer without planning it."""
    decay_share: float = Field(0.2, gt=0, le=1)
    """Share of the steps in which the rate falls with rate_schedule "wsd"."""
    final_learning_rate: float = Field(1.5e-5, ge=0)
    """The learning rate of the last step (paper: 1.5e-5)."""
    warmup_steps: int = Field(4000, ge=0)
    """Steps in which the learning rate rises from almost 0 to learning_rate (paper: 4,000)."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's decay of the mean gradient (paper: 0.9). Muon's own momentum is torch's default."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """AdamW's decay of the mean squared gradient (paper: 0.95)."""
    epsilon: float = Field(1e-8, gt=0)
    """AdamW's epsilon in the denominator (paper: 1e-8)."""
    weight_decay: float = Field(0.1, ge=0)
    """Decay of matrices and convolutions (paper: 0.1); norms, biases and the text embedding do not decay."""
    clip_norm: float = Field(1.0, gt=0)
    """The gradient is scaled down to this norm where it is larger (paper: 1.0)."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the running average of the weights, which sampling, evaluation and the held-out losses use; it is smaller in the
    first steps. 0: no average (the paper does not mention one)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of products in the forward and backward pass. With "bf16" weights and optimizer stay in fp32 (autocast)."""
    attention: Kernel = "auto"
    """The attention kernel; all compute the same up to rounding. "grouped": documents of one length together. "dense": one mask
    over the whole batch, the reference. "flex": FlexAttention, compiled, CUDA only. "auto": flex on CUDA, else grouped."""
    eval_every: int = Field(250, ge=1)
    """Steps between two measurements of the held-out losses, which also happen before the first and after the last step."""
    eval_rows: int = Field(8, ge=1)
    """Held-out rows of each measurement, always the same ones; at most as many as there are."""
    keep_best: Literal["", "heldout_image_loss", "heldout_text_loss"] = later("")
    """The checkpoint gets the weights of the measurement at which this figure was lowest. Empty: those of the last step."""
    on_nonfinite: Literal["stop", "skip"] = neutral("stop")
    """What happens where a loss or gradient is not finite: "stop" ends the training before the optimizer step (exit code 6),
    "skip" leaves the step out. A training that stopped may resume with "skip"."""
    skip_limit: int = neutral(8, ge=1)
    """Steps in a row that on_nonfinite "skip" leaves out before it stops."""
    preview_every: int = neutral(0, ge=0)
    """Steps between two previews: some held-out captions are drawn with the settings of [sample.generation]. 0: none."""
    save_every: int = neutral(250, ge=1)
    """Steps between two saves of the whole state, from which a stopped training resumes."""
    keep_saves: int = neutral(2, ge=1)
    """Saves that are kept; older ones are deleted."""
    log_every: int = neutral(10, ge=1)
    """Steps between two rows of losses and speed in the metrics."""
    trackers: tuple[Tracker, ...] = neutral(())
    """Where the metrics go in addition to the checkpoint's own files, such as `[{ kind = "tensorboard" }]`."""
    processes: Annotated[int, Field(ge=1)] | Literal["auto"] = neutral("auto")
    """Processes of this machine that share the rows of each step on a CPU, where torchrun starts none and sharding is "none"; at
    most batch_rows. "auto": one, or one for each core, whichever takes more steps per second in a short measurement; a training
    that resumes keeps what was chosen. The result does not depend on it beyond rounding."""
    sharding: Literal["none", "full", "hybrid"] = neutral("none")
    """With several processes (torchrun): "none" keeps all weights on each, "full" shards weights, gradients, optimizer and
    average over all (FSDP2), "hybrid" shards them within groups of shard_group processes. May change when a training resumes, as
    may the number of processes."""
    shard_group: int = neutral(0, ge=0)
    """Processes of a group with sharding "hybrid", such as those of one machine; their number must be a multiple of it. 0 with
    any other sharding."""
    checkpointing: Literal["none", "full", "selective"] = neutral("none")
    """Activations that the blocks keep for the backward pass: "none" keeps all, "selective" the results of matrix products and
    attention, "full" only each block's input. What is not kept is computed again: less memory, more time.
    May change when a training resumes."""
    compile: bool | Literal["auto"] = neutral("auto")
    """Compile the blocks with torch.compile: faster steps after a slow first one. "auto": on CUDA only. May change
    when a training resumes."""

    @model_validator(mode="after")
    def _groups_belong_to_hybrid(self) -> TrainConfig:
        if (self.sharding == "hybrid") != (self.shard_group > 0):
            raise ValueError('shard_group goes with sharding = "hybrid", which needs it')
        return self
