"""What a training would take: weights, memory by kind, speed and days, for this machine or a named GPU. Trains nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from stages.core.errors import ExitCode, TfcliError
from stages.core.hardware import Machine
from stages.core.memory import available_bytes
from stages.diffusion.config import DiffusionConfig
from stages.estimate_training.memory import Footprint, footprint, stand_in
from stages.estimate_training.probe import Trial, try_out
from stages.model.config import ModelConfig
from stages.model.transformer import ModelDims
from stages.train_model.batches import Batch, rows_of_step
from stages.train_model.config import TrainConfig
from stages.train_model.distributed.ranks import Ranks
from stages.train_model.stage import Data

MFU = 0.4  # a guess, where nothing was measured
# A trial takes some half a minute at the slow end of what was seen of CPUs (15 % of their best), and at most 100 steps.
_SLOW, _TRIAL_SECONDS, _TRIAL_STEPS = 0.15, 30.0, 100
_FEW = 4  # rows of a stand-in, and forward passes of finished data, that are looked at
# Python, torch and its kernels: measured on CPU; for CUDA, where nothing was measured, a guess.
_PROCESS = {"cpu": 370_000_000, "cuda": 1_000_000_000}


@dataclass(frozen=True)
class DataPlan:
    """What the data says: facts, the latents' grid, and elements in a row."""

    facts: ModelDims
    grid: tuple[int, int]
    row_length: int


@dataclass(frozen=True)
class TrainingPlan:
    """memory: bytes by kind on each device, of tensors, and what the process holds beside them. Where train.sharding cuts
    weights, what each device keeps of them, and under "gathered" what is whole for the length of a step or a block.

    trial: some steps that were taken on this CPU to measure memory and speed; without one memory is a count, and on a CPU the
    allocator and oneDNN's store of compiled kernels keep more: peaks of 1.5 (float32) to 2.7 times (bf16) the count were
    seen. busy: the share of the devices that have rows. advice: what to change where it does not fit.
    """

    machine: Machine
    parameters: dict[str, int]
    memory: dict[str, int]
    flops_per_element: float
    elements_per_step: int
    micro_rows: int
    mfu: float
    steps: int
    from_data: bool
    busy: float = 1.0
    advice: str = ""
    trial: Trial | None = None

    @property
    def speed(self) -> float:
        """Elements a second on all devices, which wait for the one with the most rows."""
        return self.mfu * self.machine.peak * self.machine.count * self.busy / self.flops_per_element

    @property
    def peak_bytes(self) -> int:
        return sum(self.memory.values())

    @property
    def seconds(self) -> float:
        return self.steps * self.elements_per_step / self.speed


def plan_training(
    model: ModelConfig,
    diffusion: DiffusionConfig,
    train: TrainConfig,
    data: DataPlan | Path,
    machine: Machine,
    *,
    mfu: float | None = None,
    seed: int = 0,
) -> TrainingPlan:
    """data: finished Sequences, whose first step is taken as it is; or what is known before there are any. mfu: the share of
    the device's best speed, None for what is measured on trial, or MFU."""
    if train.sharding == "hybrid" and machine.count % train.shard_group:
        what = f"the number of devices, {machine.count}, is not divisible by train.shard_group = {train.shard_group}"
        raise TfcliError(what, fix='another group, or train.sharding = "full"', code=ExitCode.USAGE)
    rows = -(-train.batch_rows // machine.count)  # of the fullest share
    micro = min(train.micro_rows or rows, rows)
    if isinstance(data, Path):
        found, batches = _first_batches(model, diffusion, train, data, seed, micro)
        cost = max((footprint(model, found, train, [batch]) for batch in batches), key=lambda one: one.peak_bytes)
    else:
        cost = _of_rows(model, diffusion, train, data, micro)
    memory = _on_each(cost, model, train, machine.count)
    memory["process"] = _PROCESS["cpu" if machine.name == "cpu" else "cuda"]
    trial = None
    if machine.name == "cpu" and machine.count == 1 and isinstance(data, Path):
        step_seconds = cost.flops * (rows // micro) / (_SLOW * machine.peak)
        count = min(train.steps, int(_TRIAL_SECONDS / step_seconds), _TRIAL_STEPS)
        if count >= 2 and 3 * sum(memory.values()) < (available_bytes() or 0):
            trial = try_out(model, diffusion, train, data, seed, count)
            tensors = sum(memory.values()) - memory["process"]
            memory["process"] = max(0, trial.peak_after(train.steps) - tensors)
            reached = trial.elements_per_second * cost.flops / cost.elements / machine.peak
            mfu = reached if mfu is None else mfu
    return TrainingPlan(
        machine=machine,
        parameters=cost.parameters,
        memory=memory,
        flops_per_element=cost.flops / cost.elements,
        elements_per_step=cost.elements * train.batch_rows // micro,
        micro_rows=micro,
        mfu=MFU if mfu is None else mfu,
        steps=train.steps,
        from_data=isinstance(data, Path),
        busy=train.batch_rows / (machine.count * rows),
        advice=_advice(machine, memory, micro, train),
        trial=trial,
    )


def _on_each(cost: Footprint, model: ModelConfig, train: TrainConfig, devices: int) -> dict[str, int]:
    """Memory by kind on each of many devices. Gathered at the worst moment of a backward pass: what lies around the blocks with
    its gradient, the block at work with its gradient and the copy of it that is sent, and the block that comes next."""
    group = {"none": 1, "full": devices, "hybrid": train.shard_group}[train.sharding]
    if group == 1:
        return dict(cost.memory)
    cut = ("weights", "running average", "optimizer", "gradients")
    memory = {kind: -(-size // group) if kind in cut else size for kind, size in cost.memory.items()}
    block = cost.memory["weights"] * cost.parameters["blocks"] // sum(cost.parameters.values()) // model.layers
    around = cost.memory["weights"] - block * model.layers
    return memory | {"gathered": 2 * around + 4 * block}


def _of_rows(
    model: ModelConfig, diffusion: DiffusionConfig, train: TrainConfig, data: DataPlan, rows: int
) -> Footprint:
    """The cost of a forward pass of `rows` rows. Beyond a few it is drawn on as a straight line, as the masks of a stand-in are
    real: with thousands of rows they would take the memory that the plan is about."""
    copies = diffusion.context_images == "clean"
    few = [
        footprint(model, data.facts, train, [stand_in(data.facts, data.grid, data.row_length, number, copies=copies)])
        for number in ([rows] if rows <= _FEW else [_FEW // 2, _FEW])
    ]
    last = few[-1]
    if len(few) == 1:
        return last
    growth = (last.memory["activations"] - few[0].memory["activations"]) * 2 / _FEW
    activations = int(last.memory["activations"] + growth * (rows - _FEW))
    memory = last.memory | {"activations": activations}
    return replace(last, memory=memory, flops=last.flops * rows // _FEW, elements=last.elements * rows // _FEW)


def _first_batches(
    model: ModelConfig, diffusion: DiffusionConfig, train: TrainConfig, sequences: Path, seed: int, micro: int
) -> tuple[ModelDims, list[Batch]]:
    data = Data(sequences, diffusion, model)
    rows = rows_of_step(data.content.num_rows, train.batch_rows, seed, 0)[: _FEW * micro]
    wanted = train.model_copy(update={"micro_rows": micro})
    return data.facts, data.batches(wanted, rows, 0, seed, Ranks())


def _advice(machine: Machine, memory: dict[str, int], micro: int, train: TrainConfig) -> str:
    """Empty where it fits."""
    total = sum(memory.values())
    if total <= machine.memory:
        return ""
    room = machine.memory - (total - memory["activations"])
    fitting = int(micro * room / max(1, memory["activations"]))
    if fitting >= 1:
        return f"set train.micro_rows = {fitting}: the same steps in smaller forward passes"
    if train.sharding == "none" and machine.count > 1:
        return 'set train.sharding = "full": each device keeps a part of weights, gradients and optimizer'
    if train.checkpointing != "full" and room > 0:
        more = "selective" if train.checkpointing == "none" else "full"
        return f'set train.checkpointing = "{more}": activations are computed again in the backward pass'
    if train.ema_decay and memory["running average"] + room >= memory["activations"] / micro:
        return "set train.ema_decay = 0 and train.micro_rows = 1"
    if room <= 0:
        return "weights, gradients and optimizer alone do not fit: a smaller model, or a larger device"
    return "shorter rows (pack.row_length), larger patches (pack.patch_side), or a smaller model"
