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
from stages.train_model.distributed.ranks import Ranks, part, put, put_all, whole
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
    folder: Path, state: TrainState, metrics: Sequence[dict[str, Any]] | None = None, *, cut: bool = False
) -> None:
    """Write the tensors and, last, `state.json` with their hashes. What is not finite is refused. cut: each process writes
    its parts; else the main one writes all. metrics: the log until this step, which goes on from here and is in the digest."""
    _require_finite(state)
    if cut:
        write_shards(folder, {f"{kind}/{name}": part for kind, name, part in _tensors(state)})
    else:
        _write_whole(folder, state)
    state.ranks.wait()
    if state.ranks.main:
        names = (SHARD,) if cut else (WEIGHTS, OPTIMIZER, *((EMA,) if state.ema else ()))
        files = [path for path in sorted(folder.iterdir()) if matches(path.name, names)]
        if metrics is not None:
            write_jsonl(folder / METRICS, metrics)
            files.append(folder / METRICS)
        entries = [FileEntry(path=file.name, bytes=file.stat().st_size, sha256=hash_file(file)) for file in files]
        write_record(folder / STATE, {"step": state.step, "files": [entry.model_dump() for entry in entries]})


def read_state(folder: Path, state: TrainState) -> None:
    """Check a state and load it. Raises TfcliError (ARTIFACT) if it is damaged."""
    if state.ranks.most(bool(why := _problem(folder, state))):
        raise state.ranks.agreed(_damaged(folder, why or "another process found it damaged"))
    load_state(folder, state)


def load_state(folder: Path, state: TrainState) -> None:
    """Load a state that `newest_state` has found whole into an existing model and optimizer."""
    step, entries = _read_record(folder)
    if any(entry.path == WEIGHTS for entry in entries):
        _read_whole(folder, state)
    else:
        _read_cut(folder, state)
    state.ranks.wait()
    state.step = step


def _problem(folder: Path, state: TrainState) -> str:
    """What is wrong with a state on disk; "" where nothing is. Each process looks at the bytes of some of the files."""
    try:
        step, entries = _read_record(folder)
        if (named := _NAME.fullmatch(folder.name)) and int(named[1]) != step:
            return f"{STATE} is of step {step}"
        names = {entry.path for entry in entries}
        whole_state = {WEIGHTS, OPTIMIZER, *([EMA] if state.ema else [])}
        wanted = (
            whole_state
            if WEIGHTS in names
            else {path.name for path in folder.iterdir() if matches(path.name, (SHARD,))}
        )
        if names - {METRICS} != wanted or not names or len(names) < len(entries):
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
    """Write a save beside the others, rename it into place, then drop all but the newest `keep` complete ones. One that cannot
    be written whole is removed at once: the disk may be full of it."""
    final = saves / f"step-{state.step:08d}"
    temporary = saves / f"{final.name}.tmp"
    main = state.ranks.main
    if state.ranks.most(main and (final / STATE).exists()):
        return
    try:
        if main:
            with disk_errors(temporary):
                saves.mkdir(exist_ok=True)
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
        state.ranks.wait()
        write_state(temporary, state, metrics, cut=state.ranks.mesh is not None)
        if main:
            sync_up(sorted(temporary.iterdir()), saves.parent)  # parts that others wrote are flushed here too
            if final.exists():
                _set_aside(final)
            with disk_errors(final):
                os.replace(temporary, final)
            sync_folder(saves)
            for old in complete_saves(saves)[:-keep]:
                remove_files(old, STATE_FILES)
        state.ranks.wait()
    except BaseException:
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
        raise


def half_saves(saves: Path) -> list[Path]:
    """Folders under the name of a save that have no record: nothing that a kill leaves, so somebody has been at them. One that
    holds files of others alone was none."""
    named = sorted(saves.glob("step-*")) if saves.is_dir() else []
    found = []
    for path in named:
        if _NAME.fullmatch(path.name) and not (path / STATE).is_file():
            names = [file.name for file in path.iterdir()] if path.is_dir() else []
            if not names or any(matches(name, STATE_FILES) for name in names):
                found.append(path)
    return found


def newest_state(saves: Path, sealing: Path, state: TrainState, report: Report) -> Path | None:
    """The newest state that is whole: of the folder that is about to be sealed, or a save; None where there is none. The main
    process decides for all. One that is not whole is reported and set aside (`step-N.damaged`), and the one before it is tried.

    Raises TfcliError (ARTIFACT) where there are saves and none is whole: a training does not start from 0 in silence.
    """
    ranks, aside, refused_sealing = state.ranks, [], False
    for half in half_saves(saves) if ranks.main else []:
        report(Warn(f"{half} is not complete: an older save is taken"))
        aside.append(_set_aside(half))
    ranks.wait()
    while True:
        found = -1
        if ranks.main:
            steps = [int(path.name.removeprefix("step-")) for path in complete_saves(saves)]
            seal = (sealing / STATE).exists() and not refused_sealing
            found = 10**9 if seal else max(steps, default=-1)
        found = ranks.most(found)
        if found < 0:
            break
        folder = sealing if found == 10**9 else saves / f"step-{found:08d}"
        why = _problem(folder, state)
        if not ranks.most(bool(why)):
            return folder
        report(Warn(f"{folder} is damaged ({why or 'another process found it so'}): an older save is taken"))
        if folder == sealing:
            refused_sealing = True
        elif ranks.main:
            aside.append(_set_aside(folder))
        ranks.wait()
    if ranks.main:  # set aside by an earlier run that ended here: a second run does not start from 0 either
        aside = sorted(saves.glob("step-*.damaged"))
    if ranks.most(bool(aside) or refused_sealing):
        what = f"no save of {saves} is whole"
        why = f"set aside: {', '.join(path.name for path in aside) or sealing / STATE}"
        fix = "restore one, or start again with --force"
        raise ranks.agreed(TfcliError(what, why=why, fix=fix, code=ExitCode.ARTIFACT))
    return None


def _set_aside(folder: Path) -> Path:
    """Rename a save that cannot be used, so that neither it nor its place is taken for one; it is deleted with the others."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    with disk_errors(folder):
        os.replace(folder, aside)
    return aside


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
    """All processes come to the same answer. A part of a weight that is not finite is on one of them only."""
    bad = not all(bool(torch.isfinite(part(tensor)).all()) for _, _, tensor in _tensors(state))
    if state.ranks.most(bad):
        why = f"at step {state.step}; nothing was saved"
        raise state.ranks.agreed(TfcliError("weights are not finite", why=why, code=ExitCode.DIVERGED))


def _write_whole(folder: Path, state: TrainState) -> None:
    files: dict[str, dict[str, Tensor]] = {WEIGHTS: {}, **({EMA: {}} if state.ema else {}), OPTIMIZER: {}}
    for kind, name, tensor in _tensors(state):
        file = {"weights": WEIGHTS, "ema": EMA}.get(kind, OPTIMIZER)
        all_of_it = whole(tensor)  # gathered from all processes where it is cut
        if state.ranks.main:
            files[file][f"{kind}/{name}" if file == OPTIMIZER else name] = all_of_it.cpu()
    if state.ranks.main:
        for file, tensors in files.items():
            write_tensors(folder / file, tensors)


def _read_whole(folder: Path, state: TrainState) -> None:
    weights = dict(state.model.named_parameters())
    put_all(state.model, read_tensors(folder / WEIGHTS))
    for name, tensor in (read_tensors(folder / EMA) if state.ema else {}).items():
        put(state.ema[name], tensor)
    for path, tensor in read_tensors(folder / OPTIMIZER).items():
        slot, name = path.split("/", 1)
        put(_slot(state, slot, weights[name]), tensor)


def _read_cut(folder: Path, state: TrainState) -> None:
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
    """A new tensor in what the optimizer of `weight` keeps, of which this process has the part that it has of the weight.
    AdamW's count of steps is one number, the weight's own (one without a gradient sat out that step), on its device."""
    (owner,) = [o for o in state.optimizers if any(weight is w for group in o.param_groups for w in group["params"])]
    made = torch.zeros((), device=weight.device) if slot == "step" else torch.zeros_like(weight.detach())
    owner.state[weight][slot] = made
    return made


def complete_saves(saves: Path) -> list[Path]:
    """Complete saves, oldest first; a half-written one (no state.json, or under a temporary name) is none."""
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
