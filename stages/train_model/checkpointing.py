"""Saved states of a running training: `<partial>/saves/step-000250/`, complete once `state.json` is there.

A state is weights, running average, optimizer state and the step. Nothing else has to be saved: batches, noise and learning
rate are functions of (seed, step). Full tensors are in three files (the form of a checkpoint); where weights are sharded over
ranks, each writes its local shards (`distributed/sharded_state.py`). Either is read by any number of ranks. All ranks call
these functions together.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.artifacts.checkpoint import (
    EMA,
    METRICS,
    OPTIMIZER,
    SHARD,
    STATE,
    STATE_FILES,
    WEIGHTS,
    read_tensors,
    write_tensors,
)
from stages.artifacts.form import matches
from stages.artifacts.manifest import FileEntry, check_size
from stages.artifacts.removal import remove_files
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Report, Warn
from stages.core.files import disk_errors, read_record, sync_folder, sync_up, write_jsonl, write_record
from stages.core.hashing import hash_file
from stages.core.reading import inside
from stages.model.transformer import Transfusion
from stages.train_model.distributed.ranks import Ranks, copy_into, full_tensor, load_full_tensors, local_shard
from stages.train_model.distributed.sharded_state import read_shards, shard_names, write_shards

_NAME = re.compile(r"step-(\d{8})")
_FIX = "delete that folder to go back to the save before it"


@dataclass
class TrainState:
    """What changes while training."""

    model: Transfusion
    optimizers: list[torch.optim.Optimizer]
    ema: dict[str, Tensor]
    step: int = 0
    ranks: Ranks = field(default_factory=Ranks)


def write_state(
    folder: Path, state: TrainState, metrics: Sequence[dict[str, Any]] | None = None, *, sharded: bool = False
) -> None:
    """Write the tensors and then `state.json` with their hashes.

    Args:
        folder: where to write; it exists.
        state: the model, optimizers and step to save.
        metrics: the log up to this step, from which a resumed training continues; None: no log.
        sharded: each rank writes its local shards; otherwise the main rank writes full tensors.

    Raises TfcliError (DIVERGED) where a tensor holds a value that is not finite.
    """
    _require_finite(state)
    if sharded:
        write_shards(folder, {f"{kind}/{name}": tensor for kind, name, tensor in _tensors(state)})
    else:
        _write_full(folder, state)
    state.ranks.barrier()
    if state.ranks.main:
        names = (SHARD,) if sharded else (WEIGHTS, OPTIMIZER, *((EMA,) if state.ema else ()))
        files = [path for path in sorted(folder.iterdir()) if matches(path.name, names)]
        if metrics is not None:
            write_jsonl(folder / METRICS, metrics)
            files.append(folder / METRICS)
        entries = [FileEntry(path=file.name, bytes=file.stat().st_size, sha256=hash_file(file)) for file in files]
        write_record(folder / STATE, {"step": state.step, "files": [entry.model_dump() for entry in entries]})


def read_state(folder: Path, state: TrainState) -> None:
    """Check a state and load it. Raises TfcliError (ARTIFACT) if it is damaged."""
    if state.ranks.all_reduce_max(bool(why := _problem(folder, state))):
        state.ranks.raise_on_main(_damaged(folder, why or "another rank found it damaged"))
    load_state(folder, state)


def load_state(folder: Path, state: TrainState) -> None:
    """Load a state that `newest_state` has checked into an existing model and optimizer."""
    step, entries = _read_record(folder)
    if any(entry.path == WEIGHTS for entry in entries):
        _read_full(folder, state)
    else:
        _read_sharded(folder, state)
    state.ranks.barrier()
    state.step = step


def _problem(folder: Path, state: TrainState, last: int | None = None) -> str:
    """What is wrong with a state on disk; "" where nothing is. Each rank checks the bytes of some of the files. last: the step
    that it must have, for a folder whose name has no step."""
    try:
        step, entries = _read_record(folder)
        if (named := _NAME.fullmatch(folder.name)) and int(named[1]) != step:
            return f"{STATE} is of step {step}"
        if last is not None and step != last:
            return f"{STATE} is of step {step}, the training ends at step {last}"
        names = {entry.path for entry in entries}
        full_state = {WEIGHTS, OPTIMIZER, *([EMA] if state.ema else [])}
        shards = {path.name for path in folder.iterdir() if matches(path.name, (SHARD,))}
        if names - {METRICS} != (full_state if WEIGHTS in names else shards) or not names or len(names) < len(entries):
            return f"{STATE} lists {', '.join(sorted(names)) or 'no files'}"
        for entry in entries:
            check_size(folder, entry, _FIX)
        for entry in entries[state.ranks.index :: state.ranks.count]:
            if hash_file(inside(folder, entry.path)) != entry.sha256:
                return f"{entry.path} is damaged: its sha256 differs"
    except TfcliError as error:
        if error.code != ExitCode.ARTIFACT:
            raise
        return f"{error.what}: {error.why}"
    return ""


def save(saves: Path, state: TrainState, keep: int, metrics: Sequence[dict[str, Any]] | None = None) -> None:
    """Write a save under a temporary name, rename it, then delete all but the newest `keep` complete saves. A save that cannot
    be written completely is removed at once, because the disk may be full."""
    final = saves / f"step-{state.step:08d}"
    temporary = saves / f"{final.name}.tmp"
    main = state.ranks.main
    if state.ranks.all_reduce_max(main and (final / STATE).exists()):
        return
    try:
        if main:
            with disk_errors(temporary):
                saves.mkdir(exist_ok=True)
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
        state.ranks.barrier()
        write_state(temporary, state, metrics, sharded=state.ranks.mesh is not None)
        if main:
            sync_up(sorted(temporary.iterdir()), saves.parent)  # the shards of other ranks are flushed here too
            if final.exists():
                _mark_damaged(final)
            with disk_errors(final):
                os.replace(temporary, final)
            sync_folder(saves)
            for old in complete_saves(saves)[:-keep]:
                remove_files(old, STATE_FILES)
        state.ranks.barrier()
    except BaseException:
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def half_saves(saves: Path) -> list[Path]:
    """Folders with the name of a save but without a record. A kill never leaves one, so somebody changed them. A folder that
    holds only files of others is none of them."""
    named = sorted(saves.glob("step-*")) if saves.is_dir() else []
    found = []
    for path in named:
        if _NAME.fullmatch(path.name) and not (path / STATE).is_file():
            names = [file.name for file in path.iterdir()] if path.is_dir() else []
            if not names or any(matches(name, STATE_FILES) for name in names):
                found.append(path)
    return found


def newest_state(saves: Path, sealing: Path, state: TrainState, report: Report, last: int | None = None) -> Path | None:
    """The newest state that is not damaged: the folder that is about to be sealed, or a save; None where there is none.

    The main rank decides for all. A damaged state is reported and renamed to `step-N.damaged`, and the save before it is tried.

    Args:
        saves: folder of the saves.
        sealing: the growing folder, which has a state of its own right before the seal.
        state: the model and optimizers that the state is for.
        report: listener for warnings.
        last: the step that the state in `sealing` must have.

    Raises TfcliError (ARTIFACT) where there are saves and all are damaged: a training never restarts from step 0 silently.
    """
    ranks, try_sealing = state.ranks, True
    for half in half_saves(saves) if ranks.main else []:
        report(Warn(f"{half} is not complete: an older save is used"))
        _mark_damaged(half)
    ranks.barrier()
    while (folder := _candidate(saves, sealing if try_sealing else None, ranks)) is not None:
        why = _problem(folder, state, last if folder == sealing else None)
        if not ranks.all_reduce_max(bool(why)):
            return folder
        report(Warn(f"{folder} is damaged ({why or 'another rank found it damaged'}): an older save is used"))
        if folder == sealing:
            try_sealing = False
        elif ranks.main:
            _mark_damaged(folder)
        ranks.barrier()
    # also those that an earlier run renamed: a second run does not restart from step 0 either
    damaged = sorted(saves.glob("step-*.damaged")) if ranks.main else []
    if ranks.all_reduce_max(bool(damaged) or not try_sealing):
        what = f"all saves in {saves} are damaged"
        why = f"set aside: {', '.join(path.name for path in damaged) or sealing / STATE}"
        fix = "restore one, or start again with --force"
        ranks.raise_on_main(TfcliError(what, why=why, fix=fix, code=ExitCode.ARTIFACT))
    return None


def _candidate(saves: Path, sealing: Path | None, ranks: Ranks) -> Path | None:
    """The newest state on disk by its name, the same on all ranks: `sealing` where it has a state, else the newest save."""
    is_sealing, step = False, -1
    if ranks.main:
        is_sealing = sealing is not None and (sealing / STATE).exists()
        step = max((int(path.name.removeprefix("step-")) for path in complete_saves(saves)), default=-1)
    if ranks.all_reduce_max(is_sealing):
        return sealing
    step = ranks.all_reduce_max(step)
    return None if step < 0 else saves / f"step-{step:08d}"


def _mark_damaged(folder: Path) -> None:
    """Rename a save that cannot be used, so that it is not taken for one and its name is free; it is deleted with the others."""
    damaged = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(damaged, ignore_errors=True)
    with disk_errors(folder):
        os.replace(folder, damaged)


def _tensors(state: TrainState) -> Iterator[tuple[str, str, Tensor]]:
    """All tensors of a state as (kind, name, tensor): "weights", "ema", and a kind for each slot of the optimizers."""
    weights = dict(state.model.named_parameters())
    yield from (("weights", name, weight.detach()) for name, weight in weights.items())
    yield from (("ema", name, tensor) for name, tensor in state.ema.items())
    names: dict[Tensor, str] = {weight: name for name, weight in weights.items()}
    for optimizer in state.optimizers:
        for weight, slots in optimizer.state.items():
            yield from ((slot, names[weight], tensor) for slot, tensor in slots.items())


def _require_finite(state: TrainState) -> None:
    """Raise TfcliError (DIVERGED) on all ranks where any rank's shard holds a value that is not finite."""
    bad = not all(bool(torch.isfinite(local_shard(tensor)).all()) for _, _, tensor in _tensors(state))
    if state.ranks.all_reduce_max(bad):
        why = f"at step {state.step}; nothing was saved"
        state.ranks.raise_on_main(TfcliError("weights are not finite", why=why, code=ExitCode.DIVERGED))


def _write_full(folder: Path, state: TrainState) -> None:
    files: dict[str, dict[str, Tensor]] = {WEIGHTS: {}, **({EMA: {}} if state.ema else {}), OPTIMIZER: {}}
    for kind, name, tensor in _tensors(state):
        file = {"weights": WEIGHTS, "ema": EMA}.get(kind, OPTIMIZER)
        full = full_tensor(tensor)  # gathered from all ranks where it is sharded
        if state.ranks.main:
            files[file][f"{kind}/{name}" if file == OPTIMIZER else name] = full.cpu()
    if state.ranks.main:
        for file, tensors in files.items():
            write_tensors(folder / file, tensors)


def _read_full(folder: Path, state: TrainState) -> None:
    weights = dict(state.model.named_parameters())
    load_full_tensors(state.model, read_tensors(folder / WEIGHTS))
    for name, tensor in (read_tensors(folder / EMA) if state.ema else {}).items():
        copy_into(state.ema[name], tensor)
    for path, tensor in read_tensors(folder / OPTIMIZER).items():
        slot, name = path.split("/", 1)
        copy_into(_slot(state, slot, weights[name]), tensor)


def _read_sharded(folder: Path, state: TrainState) -> None:
    weights = dict(state.model.named_parameters())
    targets: dict[str, Tensor] = {}
    for path in shard_names(folder):
        kind, name = path.split("/", 1)
        if kind == "weights":
            targets[path] = weights[name].detach()
        elif kind == "ema":
            targets[path] = state.ema[name]
        else:
            targets[path] = _slot(state, kind, weights[name])
    read_shards(folder, targets)


def _slot(state: TrainState, slot: str, weight: nn.Parameter) -> Tensor:
    """A new tensor in the optimizer state of `weight`, sharded like the weight. AdamW's `step` is a scalar for each weight (a
    weight without a gradient skips steps), on the weight's device."""
    (owner,) = [o for o in state.optimizers if any(weight is w for group in o.param_groups for w in group["params"])]
    made = torch.zeros((), device=weight.device) if slot == "step" else torch.zeros_like(weight.detach())
    owner.state[weight][slot] = made
    return made


def complete_saves(saves: Path) -> list[Path]:
    """Complete saves, oldest first; without half-written ones (no state.json, or a temporary name)."""
    if not saves.is_dir():
        return []
    return sorted(path for path in saves.iterdir() if _NAME.fullmatch(path.name) and (path / STATE).is_file())


def _read_record(folder: Path) -> tuple[int, list[FileEntry]]:
    """The step and the files of a state, from `state.json`. Raises TfcliError (ARTIFACT) where it is damaged."""
    try:
        record = read_record(folder / STATE, frozenset({"step", "files"}))
        step = record["step"]
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 10**8:
            raise ValueError(f"step {step}")
        return step, [FileEntry.model_validate(raw) for raw in record["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:  # pydantic's errors are ValueErrors
        raise _damaged(folder / STATE, f"{type(error).__name__} in it") from error


def _damaged(path: Path, why: str) -> TfcliError:
    return TfcliError(f"{path} is damaged", why=why, fix=_FIX, code=ExitCode.ARTIFACT)
