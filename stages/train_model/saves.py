"""Saved states of a running training: `<partial>/saves/step-000250/`, complete once `state.json` is there.

A state is weights, running average, what the optimizers keep, and the step. Nothing else has to be
saved: batches, noise and learning rate are functions of (seed, step).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from stages.artifacts.checkpoint import EMA, OPTIMIZER, STATE, WEIGHTS, read_tensors, write_tensors
from stages.artifacts.manifest import FileEntry, check_size
from stages.core.errors import ExitCode, TfcliError
from stages.core.files import sync_folder, write_json
from stages.core.hashing import hash_file
from stages.model.transformer import Transfusion

_NAME = re.compile(r"step-(\d{8})")
_FIX = "delete that folder to go back to the save before it"


@dataclass
class TrainState:
    """What changes while training."""

    model: Transfusion
    optimizers: list[torch.optim.Optimizer]
    ema: dict[str, Tensor]
    step: int = 0


def write_state(folder: Path, state: TrainState) -> None:
    """Write the tensors and, last, `state.json` with their hashes. Non-finite weights are refused."""
    weights = dict(state.model.named_parameters())
    if not all(bool(torch.isfinite(weight).all()) for weight in weights.values()):
        raise TfcliError(
            "weights are not finite", why=f"at step {state.step}; nothing was saved", code=ExitCode.DIVERGED
        )
    write_tensors(folder / WEIGHTS, dict(weights))
    if state.ema:
        write_tensors(folder / EMA, state.ema)
    names: dict[Tensor, str] = {weight: name for name, weight in weights.items()}
    kept = {
        f"{slot}/{names[weight]}": tensor
        for optimizer in state.optimizers
        for weight, slots in optimizer.state.items()
        for slot, tensor in slots.items()
    }
    write_tensors(folder / OPTIMIZER, kept)
    files = [path for path in sorted(folder.iterdir()) if path.suffix == ".safetensors"]
    entries = [FileEntry(path=file.name, bytes=file.stat().st_size, sha256=hash_file(file)) for file in files]
    write_json(folder / STATE, {"step": state.step, "files": [entry.model_dump() for entry in entries]})


def read_state(folder: Path, state: TrainState) -> None:
    """Load a state into an existing model and optimizer. Raises TfcliError (ARTIFACT) if a file is damaged."""
    step, entries = _read_record(folder)
    for entry in entries:
        check_size(folder, entry, _FIX)
        if hash_file(folder / entry.path) != entry.sha256:
            raise _damaged(folder / entry.path, "its sha256 differs")
    state.model.load_state_dict(read_tensors(folder / WEIGHTS), strict=True)
    for name, tensor in (read_tensors(folder / EMA) if state.ema else {}).items():
        state.ema[name].copy_(tensor)
    owners = {w: o for o in state.optimizers for group in o.param_groups for w in group["params"]}
    weights = dict(state.model.named_parameters())
    for path, tensor in read_tensors(folder / OPTIMIZER).items():
        slot, name = path.split("/", 1)
        weight = weights[name]
        # AdamW's count of steps too is the weight's own (one without a gradient sat out that step) and on its device
        owners[weight].state[weight][slot] = tensor.to(weight.device)
    state.step = step


def save(saves: Path, state: TrainState, keep: int) -> None:
    """Write a save beside the others, rename it into place, then drop all but the newest `keep` complete ones."""
    saves.mkdir(exist_ok=True)
    final = saves / f"step-{state.step:08d}"
    if final.exists():
        return
    temporary = saves / f"{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    write_state(temporary, state)
    sync_folder(temporary)
    os.replace(temporary, final)
    sync_folder(saves)
    for old in complete_saves(saves)[:-keep]:
        shutil.rmtree(old)


def complete_saves(saves: Path) -> list[Path]:
    """Complete saves, oldest first; a half-written one (no state.json, or under a temporary name) is none."""
    if not saves.is_dir():
        return []
    return sorted(path for path in saves.iterdir() if _NAME.fullmatch(path.name) and (path / STATE).is_file())


def _read_record(folder: Path) -> tuple[int, list[FileEntry]]:
    """The step and the files of a state, from `state.json`."""
    try:
        record = json.loads((folder / STATE).read_bytes())
        return int(record["step"]), [FileEntry.model_validate(raw) for raw in record["files"]]
    except (ValueError, KeyError, TypeError) as error:  # pydantic's errors are ValueErrors
        raise _damaged(folder / STATE, f"{type(error).__name__} in it") from error


def _damaged(path: Path, why: str) -> TfcliError:
    return TfcliError(f"{path} is damaged", why=why, fix=_FIX, code=ExitCode.ARTIFACT)
