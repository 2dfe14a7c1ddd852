"""An estimate of a training: weights, memory by kind, speed and duration, on this machine or a named GPU. Trains nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
from stages.train_model.data import Data
from stages.train_model.distributed.ranks import Ranks

MFU = 0.4  # assumed where nothing was measured
# A trial takes about half a minute on the slowest CPUs that were measured (15 % of their peak), and at most 100 steps.
_SLOW, _TRIAL_SECONDS, _TRIAL_STEPS = 0.15, 30.0, 100
_FEW = 4  # rows of a stand-in, and micro-batches of finished data, that are analysed
# Python, torch and its kernels: measured on CPU, assumed for CUDA.
_PROCESS = {"cpu": 370_000_000, "cuda": 1_000_000_000}


@dataclass(frozen=True)
class DataPlan:
    """What is known of data that does not exist yet.

    Args:
        dims: sizes of the vocabulary, latents and patches.
        grid: height and width of the latents.
        row_length: elements in a packed row.
        guessed: which of these stand in for what the data will decide, by the key of the recipe.
    """

    dims: ModelDims
    grid: tuple[int, int]
    row_length: int
    guessed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingPlan:
    """The estimate.

    Args:
        machine: the devices.
        parameters: number of weights by part of the model.
        memory: bytes by kind on each device. With sharded weights, what each device keeps of them, and as "gathered" the full
            weights of a block or of a step.
        flops_per_element: floating-point operations.
        elements_per_step: of the global batch, without padding.
        micro_rows: rows in a micro-batch.
        mfu: share of the device's peak speed.
        steps: of the training.
        from_data: whether finished data was read.
        busy: share of the devices that have rows.
        advice: what to change where it does not fit.
        guessed: numbers that stand in for what the data will decide, by the key of the recipe.
        trial: steps on this CPU that measured memory and speed. Without a trial memory is a count, and on a CPU the allocator
            and oneDNN's cache of compiled kernels need more: 1.5 times (float32) to 2.7 times (bf16) the count was measured.
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
    guessed: dict[str, int] = field(default_factory=dict)
    trial: Trial | None = None

    @property
    def speed(self) -> float:
        """Elements per second on all devices, which wait for the one with the most rows."""
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
    """Estimate a training.

    Args:
        model: the recipe section.
        diffusion: the recipe section.
        train: the recipe section.
        data: the folder of finished Sequences, whose first step is analysed; or what is known before there are any.
        machine: the devices.
        mfu: share of the device's peak speed; None: measured by a trial where possible, otherwise MFU.
        seed: of the recipe.

    Raises TfcliError (USAGE) where the devices are not divisible by train.shard_group.
    """
    if train.sharding == "hybrid" and machine.count % train.shard_group:
        what = f"the number of devices, {machine.count}, is not divisible by train.shard_group = {train.shard_group}"
        raise TfcliError(what, fix='another group, or train.sharding = "full"', code=ExitCode.USAGE)
    if model.rope_base == "auto":
        model = model.model_copy(update={"rope_base": 10_000.0})  # no figure depends on it
    rows = -(-train.batch_rows // machine.count)  # of the device with the most
    micro = min(train.micro_rows or rows, rows)
    if isinstance(data, Path):
        dims, batches = _first_batches(model, diffusion, train, data, seed, micro)
        cost = max((footprint(model, dims, train, [batch]) for batch in batches), key=lambda one: one.peak_bytes)
    else:
        cost = _of_rows(model, diffusion, train, data, micro)
    memory = _on_each(cost, model, train, machine.count)
    tensors = sum(memory.values())
    memory["process"] = _PROCESS["cpu" if machine.name == "cpu" else "cuda"]
    trial = None
    steps = _trial_steps(cost, train, machine, rows // micro, sum(memory.values()))
    if steps and isinstance(data, Path):
        trial = try_out(model, diffusion, train, data, seed, steps)
        memory["process"] = max(0, trial.peak_after(train.steps) - tensors)
        measured = trial.elements_per_second * cost.flops / cost.elements / machine.peak
        mfu = measured if mfu is None else mfu
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
        guessed={} if isinstance(data, Path) else data.guessed,
        trial=trial,
    )


def _trial_steps(cost: Footprint, train: TrainConfig, machine: Machine, micro_batches: int, memory: int) -> int:
    """Steps of a trial on this machine, 0 for none: on a single CPU, where a trial is short and there is enough free memory.

    Args:
        cost: of a micro-batch.
        train: the recipe section.
        machine: the devices.
        micro_batches: in each step.
        memory: the estimated bytes of the training.
    """
    if machine.name != "cpu" or machine.count != 1:
        return 0
    step_seconds = cost.flops * micro_batches / (_SLOW * machine.peak)
    steps = min(train.steps, int(_TRIAL_SECONDS / step_seconds), _TRIAL_STEPS)
    return steps if steps >= 2 and 3 * memory < (available_bytes() or 0) else 0


def _on_each(cost: Footprint, model: ModelConfig, train: TrainConfig, devices: int) -> dict[str, int]:
    """Memory by kind on each of several devices. "gathered" is the peak of a backward pass: the weights outside the blocks with
    their gradients, the current block with its gradient and the copy of it that is sent, and the next block."""
    group = {"none": 1, "full": devices, "hybrid": train.shard_group}[train.sharding]
    if group == 1:
        return dict(cost.memory)
    sharded = ("weights", "running average", "optimizer", "gradients")
    memory = {kind: -(-size // group) if kind in sharded else size for kind, size in cost.memory.items()}
    block = cost.memory["weights"] * cost.parameters["blocks"] // sum(cost.parameters.values()) // model.layers
    around = cost.memory["weights"] - block * model.layers
    return memory | {"gathered": 2 * around + 4 * block}


def _of_rows(
    model: ModelConfig, diffusion: DiffusionConfig, train: TrainConfig, data: DataPlan, rows: int
) -> Footprint:
    """The cost of a micro-batch of `rows` rows. Beyond a few rows it is extrapolated linearly: the masks of a stand-in are real
    tensors, which with thousands of rows would take as much memory as the training itself."""
    copies = diffusion.context_images == "clean"
    numbers = [rows] if rows <= _FEW else [_FEW // 2, _FEW]
    batches = [
        stand_in(data.dims, data.grid, data.row_length, number, copies=copies, draws=diffusion.noise_draws)
        for number in numbers
    ]
    few = [footprint(model, data.dims, train, [batch]) for batch in batches]
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
    return data.dims, data.batches(wanted, rows, 0, seed, Ranks())


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
        return 'set train.sharding = "full": each device keeps a shard of weights, gradients and optimizer'
    if train.checkpointing != "full" and room > 0:
        more = "selective" if train.checkpointing == "none" else "full"
        return f'set train.checkpointing = "{more}": activations are computed again in the backward pass'
    if train.ema_decay and memory["running average"] + room >= memory["activations"] / micro:
        return "set train.ema_decay = 0 and train.micro_rows = 1"
    if room <= 0:
        return "weights, gradients and optimizer alone do not fit: a smaller model, or a larger device"
    return "shorter rows (pack.row_length), larger patches (pack.patch_side), or a smaller model"
