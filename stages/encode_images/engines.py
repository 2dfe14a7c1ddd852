"""Where shards are encoded: in this process, or in actors on a Ray cluster. On machines of a kind the bytes
of a shard are the same everywhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from stages.coders.vae import Vae
from stages.core.device import resolve_device
from stages.core.errors import ExitCode, TfcliError
from stages.core.processes import short_folder
from stages.core.runtime import Runtime
from stages.encode_images.cutting import Shard
from stages.encode_images.encoder import Encoder
from stages.encode_images.job import Job
from stages.encode_images.shards import Record, encode_shards
from stages.sources.decoding import PictureReader
from stages.sources.failures import Failures

_SOCKETS_OF_RAY = len("/ray/session_2026-11-29_05-36-28_123456_1234567/sockets/plasma_store")


def encode_on_ray(job: Job, shards: Iterator[Shard], runtime: Runtime) -> Iterator[tuple[Shard, Record]]:
    """Shards and their records as they come in, from `runtime.workers` actors. Ray places them, restarts an actor that
    died and gives its shard out again. The folders must be seen from all machines under the same paths.

    Raises TfcliError: ENVIRONMENT where Ray is not installed or a shard's actors died again and again.
    """
    try:
        import ray
    except ImportError as error:
        raise TfcliError("--engine ray needs Ray", fix="pip install 'tfcli[ray]'", code=ExitCode.ENVIRONMENT) from error
    # a cluster where RAY_ADDRESS names one, else Ray on this machine; its log would mix with ours
    ours = signal.getsignal(signal.SIGTERM)
    address = os.environ.get("RAY_ADDRESS")
    # a cluster that runs has its folder; RAY_TMPDIR is the user's word
    short = None if address or os.environ.get("RAY_TMPDIR") else short_folder(_SOCKETS_OF_RAY)
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level="ERROR",
        ignore_reinit_error=True,
        **({"_temp_dir": f"{short}/ray"} if short else {}),
    )
    signal.signal(signal.SIGTERM, ours)  # Ray's own would end the process without a word
    device = resolve_device(job.device).type  # an actor sees its own GPU only, as the first
    count = max(1, runtime.workers)
    if device == "cuda":
        count = min(count, int(ray.cluster_resources().get("GPU", 0)))
        if count == 0:
            raise TfcliError("the Ray cluster has no GPU", fix="give --device cpu", code=ExitCode.ENVIRONMENT)
    actor_class = ray.remote(max_restarts=3, max_task_retries=3, num_gpus=1 if device == "cuda" else 0)(_Actor)
    idle = [actor_class.remote(replace(job, device=device)) for _ in range(count)]
    busy: dict[Any, tuple[Any, Shard]] = {}
    try:
        for shard in shards:
            actor = idle.pop()
            busy[actor.encode.remote(shard)] = (actor, shard)
            if not idle:
                yield _next(ray, busy, idle, runtime)
        while busy:
            yield _next(ray, busy, idle, runtime)
    finally:
        ray.shutdown()


def _next(ray: Any, busy: dict[Any, tuple[Any, Shard]], idle: list[Any], runtime: Runtime) -> tuple[Shard, Record]:
    """Wait for one shard."""
    done: list[Any] = []
    while not done:
        runtime.interrupts.check()
        done, _ = ray.wait(list(busy), num_returns=1, timeout=0.5)
    actor, shard = busy.pop(done[0])
    try:
        record: Record = ray.get(done[0])
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, TfcliError) else error) from None
    except ray.exceptions.RayError as error:
        raise TfcliError(
            f"Ray lost shard {shard.number}",
            why=str(error).strip().splitlines()[0],
            fix="run the same command again: finished shards are kept",
            code=ExitCode.ENVIRONMENT,
        ) from error
    idle.append(actor)
    return shard, record


@dataclass
class _Actor:
    """Lives in a process of Ray and keeps the autoencoder loaded."""

    job: Job
    vae: Vae = field(init=False)

    def __post_init__(self) -> None:
        self.vae = self.job.load()

    def encode(self, shard: Shard) -> Record:
        # no workers of its own: a crash takes this actor, Ray starts another, and gives up on the shard after three
        settings = self.job.encode
        failures = Failures(settings.max_bad, settings.bad_window)
        with PictureReader(self.job.images, 0) as reader, Encoder(self.vae, settings.mirror) as encoder:
            return next(encode_shards(self.job, [shard], encoder, reader, failures, Runtime()))[1]
