"""The process group of a training, and how the failure of one rank is reported by the others.

A rank that fails writes its reason into a key-value store (torchrun's, or that of `local.py`) before it exits. The other ranks
see a broken connection in their next collective, read the reason from the store, and the lowest of them reports it. A rank that
was killed leaves no reason; it is recognised because it sets no key within `_SECONDS`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
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

_SECONDS = 5.0  # how long to wait for the keys of other ranks after a connection broke
_START_SECONDS = 600.0  # how long the first rank waits for the last
_COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # how long one rank waits for another in a collective
_INTERFACE = "GLOO_SOCKET_IFNAME"  # the network interface that gloo uses; by default that of the machine's name
_BROKEN = re.compile(r"gloo|nccl|connection|broken pipe|timed? ?out|peer|socket", re.IGNORECASE)


def open_store() -> tuple[Store, int]:
    """A store for processes of this machine, and its port. It is reached from this machine only, and ends with this process."""
    listening = socket.create_server(("127.0.0.1", 0))
    port: int = listening.getsockname()[1]
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )
    return store, port


def join_store(port: int) -> Store:
    """The store that another process of this machine has opened."""
    store: Store = dist.TCPStore("127.0.0.1", port, is_master=False)  # type: ignore[attr-defined]
    return store


@contextmanager
def process_group(
    runtime: Runtime,
    train: TrainConfig,
    local: tuple[str, Store] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[Ranks]:
    """The ranks of this training, inside the `with` block; a single rank without other processes.

    Args:
        runtime: `launch` says which rank this is.
        train: the recipe section.
        local: where all processes are on this machine, the name of this group and the store that it uses; None: torchrun's.
        check: called while the first ranks wait for the last; raises where one has exited.

    Raises TfcliError: USAGE for a device that several ranks cannot share; where another rank failed, with the exit code of that
    failure, or ENVIRONMENT where it was killed.
    """
    if runtime.launch.ranks == 1:
        yield Ranks(resolve_device(runtime.device))
        return
    device = _own_device(runtime)
    if local is None:
        store, _, _ = next(rendezvous("env://", runtime.launch.rank, runtime.launch.ranks))
    else:
        store = PrefixStore(*local)
    board = _Board(store, runtime)
    board.meet(check)
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"  # flags and counts are exchanged on the CPU
    with _loopback() if local else nullcontext():
        dist.init_process_group(
            backend,
            store=PrefixStore("exchange", store),
            rank=runtime.launch.rank,
            world_size=runtime.launch.ranks,
            timeout=_COLLECTIVE_TIMEOUT,
            device_id=device if device.type == "cuda" else None,
        )
    try:
        yield Ranks(device, runtime.launch.rank, runtime.launch.ranks, shard_mesh(train, device, runtime.launch.ranks))
    except TfcliError as error:
        if error.what:  # without a text all ranks have the same failure
            board.post(error)
        raise
    except Exception as error:
        refused = system_failure(error)
        if refused is None and isinstance(error, RuntimeError) and _BROKEN.search(str(error)):
            raise board.cause(error) from error
        board.post(refused or TfcliError(f"{type(error).__name__}: {error}", code=ExitCode.BUG))
        raise
    finally:
        # nccl would wait here for ranks that have exited: after an error on CUDA the group is left to the end of the process
        if device.type == "cpu" or sys.exc_info()[0] is None:
            dist.destroy_process_group()


@contextmanager
def _loopback() -> Iterator[None]:
    """Inside the block gloo connects over the loopback interface: the name of the machine may have no address, or one that a
    firewall guards."""
    found = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
    before = os.environ.get(_INTERFACE)
    if not found or before is not None:
        yield
        return
    os.environ[_INTERFACE] = found[0]
    try:
        yield
    finally:
        del os.environ[_INTERFACE]


def _own_device(runtime: Runtime) -> torch.device:
    """The device of this process among those of its machine."""
    found = resolve_device(runtime.device)
    if found.type == "cpu":
        return found
    if found.index is not None:
        what = f"--device {runtime.device} names one device for {runtime.launch.ranks} processes"
        raise TfcliError(what, fix="--device cuda: each process uses the device of its LOCAL_RANK", code=ExitCode.USAGE)
    device = resolve_device(f"cuda:{runtime.launch.local_rank}")
    torch.cuda.set_device(device)
    return device


class _Board:
    """Keys in the store: which ranks have started, which failed and why, which have left a broken collective."""

    def __init__(self, store: Store, runtime: Runtime) -> None:
        self._store = store
        self._interrupts = runtime.interrupts
        self._rank = runtime.launch.rank
        self._others = [rank for rank in range(runtime.launch.ranks) if rank != self._rank]

    def meet(self, check: Callable[[], None]) -> None:
        """Wait for the other ranks. Raises TfcliError (ENVIRONMENT) naming those that do not start, and as `check` does."""
        self._store.set(f"here/{self._rank}", "")
        started = time.monotonic()
        while missing := self._without("here"):
            self._interrupts.check("nothing was started")
            check()
            if time.monotonic() - started > _START_SECONDS:
                what = f"{_ranks_text(missing)} did not start within {_START_SECONDS:.0f} s"
                raise TfcliError(what, fix="look at the output of that process", code=ExitCode.ENVIRONMENT)
            time.sleep(0.05)

    def post(self, error: TfcliError) -> None:
        """Record for the other ranks why this one exits."""
        try:
            self._store.set(f"failed/{self._rank}", json.dumps([error.what, error.why, int(error.code)]))
        except RuntimeError:  # the process that held the store has exited
            return

    def cause(self, broken: RuntimeError) -> TfcliError:
        """Why the connection broke, as an error to raise. Only the lowest rank that is left has a text to report."""
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
        who = _ranks_text(gone) if gone else "a rank"
        return TfcliError(
            "" if quiet else f"{who} exited",
            why=f"killed, or its machine is not reachable: {str(broken).splitlines()[0][:200]}",
            fix="run the same command again to resume from the last save",
            code=ExitCode.ENVIRONMENT,
        )

    def _without(self, *keys: str) -> list[int]:
        """The other ranks that have set none of the keys."""
        return [rank for rank in self._others if not any(self._store.check([f"{key}/{rank}"]) for key in keys)]


def _ranks_text(ranks: list[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(str(rank) for rank in ranks)
