"""How the processes of a training meet, and how a failure of one becomes known to all.

Each process that fails writes its reason into torchrun's key-value store before it leaves. The others meet a broken
connection in their next exchange, read the reason there, and the first of them tells it. Of a process that was killed
there is no reason; it is known by having left no mark within `_SECONDS`.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from stages.core.device import resolve_device
from stages.core.errors import ExitCode, TfcliError
from stages.core.runtime import Runtime
from stages.core.system import system_failure
from stages.train_model.config import TrainConfig
from stages.train_model.distributed.ranks import Ranks, shard_mesh

_SECONDS = 5.0  # in which marks are waited for once a connection broke
_START_SECONDS = 600.0  # from the first process to the last
_EXCHANGE = timedelta(minutes=30)  # longest time between two processes at the same exchange
_BROKEN = re.compile(r"gloo|nccl|connection|broken pipe|timed? ?out|peer|socket", re.IGNORECASE)


@contextmanager
def joined(runtime: Runtime, train: TrainConfig) -> Iterator[Ranks]:
    """The processes of this training, for the length of the block; just this one without torchrun.

    Raises TfcliError: USAGE for a device that processes cannot share; with the code of the first failure, or ENVIRONMENT,
    where another process failed.
    """
    if runtime.launch.ranks == 1:
        yield Ranks(resolve_device(runtime.device))
        return
    device = _own_device(runtime)
    store, _, _ = next(rendezvous("env://", runtime.launch.rank, runtime.launch.ranks))
    board = _Board(store, runtime)
    board.meet()
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"  # flags and counts go by the CPU
    dist.init_process_group(
        backend,
        store=PrefixStore("exchange", store),
        rank=runtime.launch.rank,
        world_size=runtime.launch.ranks,
        timeout=_EXCHANGE,
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield Ranks(device, runtime.launch.rank, runtime.launch.ranks, shard_mesh(train, device, runtime.launch.ranks))
    except TfcliError as error:
        if error.what:  # else all know
            board.post(error)
        raise
    except Exception as error:
        refused = system_failure(error)
        if refused is None and isinstance(error, RuntimeError) and _BROKEN.search(str(error)):
            raise board.cause(error) from error
        board.post(refused or TfcliError(f"{type(error).__name__}: {error}", code=ExitCode.BUG))
        raise
    finally:
        # nccl waits here for processes that are gone: there the end of this one has to do
        if device.type == "cpu" or sys.exc_info()[0] is None:
            dist.destroy_process_group()


def _own_device(runtime: Runtime) -> torch.device:
    """The device of this process among those of its machine."""
    found = resolve_device(runtime.device)
    if found.type == "cpu":
        return found
    if found.index is not None:
        what = f"--device {runtime.device} names one device for {runtime.launch.ranks} processes"
        raise TfcliError(what, fix="--device cuda: each takes that of its LOCAL_RANK", code=ExitCode.USAGE)
    device = resolve_device(f"cuda:{runtime.launch.local_rank}")
    torch.cuda.set_device(device)
    return device


class _Board:
    """The store: who came, who failed and why, who is still there."""

    def __init__(self, store: Store, runtime: Runtime) -> None:
        self._store = store
        self._interrupts = runtime.interrupts
        self._rank = runtime.launch.rank
        self._others = [rank for rank in range(runtime.launch.ranks) if rank != self._rank]

    def meet(self) -> None:
        """Wait for the others. Raises TfcliError (ENVIRONMENT) naming those that do not come."""
        self._store.set(f"here/{self._rank}", "")
        started = time.monotonic()
        while missing := self._without("here"):
            self._interrupts.check("nothing was begun")
            if time.monotonic() - started > _START_SECONDS:
                what = f"{_named(missing)} did not come in {_START_SECONDS:.0f} s"
                raise TfcliError(what, fix="look at what they say", code=ExitCode.ENVIRONMENT)
            time.sleep(0.05)

    def post(self, error: TfcliError) -> None:
        """Tell the others why this process leaves."""
        try:
            self._store.set(f"failed/{self._rank}", json.dumps([error.what, error.why, int(error.code)]))
        except RuntimeError:  # the store went with the process that held it
            return

    def cause(self, broken: RuntimeError) -> TfcliError:
        """Why the connection broke. Only the first of those that are left tells it."""
        try:
            self._store.set(f"left/{self._rank}", "")
            deadline = time.monotonic() + _SECONDS
            while time.monotonic() < deadline and self._without("left", "failed"):
                time.sleep(0.05)
            failed = [rank for rank in self._others if self._store.check([f"failed/{rank}"])]
            gone = self._without("left", "failed")
            quiet = any(rank < self._rank for rank in self._others if rank not in (*failed, *gone))
            if failed:
                what, why, code = json.loads(self._store.get(f"failed/{failed[0]}"))
                named = f"rank {failed[0]} failed: {what}"
                return TfcliError("" if quiet else named, why=why, code=ExitCode(code))
        except RuntimeError:
            gone, quiet = [0], False
        who = _named(gone) if gone else "a rank"
        return TfcliError(
            "" if quiet else f"{who} went away",
            why=f"killed, or its machine is gone: {str(broken).splitlines()[0][:200]}",
            fix="run the same command again to go on from the last save",
            code=ExitCode.ENVIRONMENT,
        )

    def _without(self, *marks: str) -> list[int]:
        """The other processes that have left none of the marks."""
        return [rank for rank in self._others if not any(self._store.check([f"{mark}/{rank}"]) for mark in marks)]


def _named(ranks: list[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(str(rank) for rank in ranks)
