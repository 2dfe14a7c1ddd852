"""Saved states of a running autoencoder training: one safetensors file and `state.json` in the growing artifact."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.artifacts.autoencoder import GROWING
from stages.artifacts.checkpoint import read_tensors, write_tensors
from stages.artifacts.form import matches
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note, Warn
from stages.core.files import disk_errors, read_record, sync_folder, write_record
from stages.core.hashing import hash_file
from stages.core.reading import inside
from stages.core.runtime import Runtime
from stages.train_autoencoder.losses import Discriminator


@dataclass
class State:
    """What changes while an autoencoder is trained. model: a diffusers AutoencoderKL. saved: the file that state.json names."""

    model: Any
    optimizer: torch.optim.AdamW
    ema: dict[str, Tensor]
    discriminator: Discriminator | None
    discriminator_optimizer: torch.optim.AdamW | None
    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    saved: str = ""


def save_state(folder: Path, state: State) -> None:
    """Write one safetensors file with the whole state, then `state.json`, which names it and makes it valid."""
    saves = folder / GROWING
    with disk_errors(saves):
        saves.mkdir(exist_ok=True)
    sync_folder(folder)
    file = f"step-{state.step:08d}.safetensors"
    if state.saved == file:
        return  # it is valid already: a kill while it is overwritten would damage it
    tensors = {f"ema/{name}": tensor for name, tensor in state.ema.items()}
    for prefix, module, optimizer in _modules(state):
        for name, weight in module.named_parameters():
            tensors[f"{prefix}/{name}"] = weight
            slots = optimizer.state.get(weight, {})
            tensors.update(
                {f"{prefix}/{slot}/{name}": slots[slot] for slot in ("step", "exp_avg", "exp_avg_sq") if slot in slots}
            )
    write_tensors(saves / file, tensors)
    record = {"step": state.step, "file": file, "file_sha256": hash_file(saves / file), "rows": state.rows}
    write_record(saves / "state.json", record)
    state.saved = file
    for old in saves.iterdir():
        if old.name != file and matches(old.name, ("step-#.safetensors",)):
            old.unlink()


def resume(folder: Path, state: State, runtime: Runtime) -> None:
    """Load the saved state, if there is one. A damaged one is reported, and the training restarts."""
    path = folder / GROWING / "state.json"
    try:
        record = read_record(path, frozenset({"step", "file", "rows"}))
        tensors = _saved_tensors(path, record, state)
    except FileNotFoundError:
        return
    except TfcliError as error:
        if error.code != ExitCode.ARTIFACT:
            raise
        why = f"{error.what}: {error.why}"
        runtime.report(Warn(f"the saved state of the autoencoder cannot be used, its training restarts ({why})"))
        path.unlink(missing_ok=True)
        return
    state.step, state.rows, state.saved = record["step"], record["rows"], record["file"]
    with torch.no_grad():
        for name, tensor in state.ema.items():
            tensor.copy_(tensors[f"ema/{name}"])
        for prefix, module, optimizer in _modules(state):
            for name, weight in module.named_parameters():
                weight.copy_(tensors[f"{prefix}/{name}"])
                if f"{prefix}/exp_avg/{name}" in tensors:
                    # fused AdamW needs the moments in the memory format of the weight (channels_last)
                    slots = {slot: tensors[f"{prefix}/{slot}/{name}"] for slot in ("exp_avg", "exp_avg_sq")}
                    optimizer.state[weight] = {
                        "step": tensors[f"{prefix}/step/{name}"],
                        **{slot: torch.empty_like(weight).copy_(values) for slot, values in slots.items()},
                    }
    runtime.report(Note(f"resuming from step {state.step}"))


def _saved_tensors(path: Path, record: dict[str, Any], state: State) -> dict[str, Tensor]:
    """The tensors of the file that a record names. Raises TfcliError (ARTIFACT) where they do not belong to this training."""
    step, file, rows = record.get("step"), record.get("file"), record.get("rows")
    whole = isinstance(step, int) and isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    if not whole or file != f"step-{step:08d}.safetensors":
        raise TfcliError(f"{path} is damaged", why=f"it is of step {step} and names {file!a}", code=ExitCode.ARTIFACT)
    tensors_file = inside(path.parent, file)
    tensors = read_tensors(tensors_file)
    wanted = {f"ema/{name}": tensor.shape for name, tensor in state.ema.items()}
    for prefix, module, _ in _modules(state):
        for name, weight in module.named_parameters():
            keys = [f"{prefix}/{name}"]
            if any(f"{prefix}/{slot}/{name}" in tensors for slot in ("step", "exp_avg", "exp_avg_sq")):
                keys += [f"{prefix}/{slot}/{name}" for slot in ("exp_avg", "exp_avg_sq")]
            wanted |= dict.fromkeys(keys, weight.shape)
    bad = next((name for name, shape in wanted.items() if name not in tensors or tensors[name].shape != shape), None)
    is_other = "file_sha256" in record and record["file_sha256"] != hash_file(tensors_file)
    if bad is not None or is_other:
        why = "its sha256 differs" if is_other else f"{bad} is missing or has another shape"
        raise TfcliError(f"{tensors_file} is damaged", why=why, code=ExitCode.ARTIFACT)
    return tensors


def _modules(state: State) -> list[tuple[str, torch.nn.Module, torch.optim.AdamW]]:
    parts: list[tuple[str, torch.nn.Module, torch.optim.AdamW]] = [("model", state.model, state.optimizer)]
    if state.discriminator is not None and state.discriminator_optimizer is not None:
        parts.append(("discriminator", state.discriminator, state.discriminator_optimizer))
    return parts
