"""Documents generated on a CPU by several processes of one thread, each with its own copy of the model.

A small model leaves most cores idle in one process. Every random draw is named by (seed, prompt number, position), so a document
has the same draws whichever process generates it; only the rounding of sums differs, as between batches. Which process takes
which prompt depends on their numbers alone, so that a second run on the same machine gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.core.errors import ExitCode, TfcliError
from stages.core.hardware import threads, usable_cores
from stages.core.processes import Helper
from stages.core.runtime import Runtime
from stages.generation.config import GenerationConfig, Precision
from stages.generation.engine import Engine
from stages.generation.loading import LoadedModel, load_model
from stages.generation.prompts import Output, Prompt

_MOST = 8  # processes: each holds torch and the model
# Of all documents together. Below this they are there before a process that takes 3 s to start has paid.
_LEAST_FLOPS = 1e12


@dataclass(frozen=True)
class _Request:
    """Prompts for one process, with their numbers, and what an Engine takes."""

    config: GenerationConfig
    seed: int
    prompts: Any
    numbers: Sequence[int]


@dataclass(frozen=True)
class _Array:
    """A tensor on its way between processes: torch's own way goes through shared memory, of which containers have little."""

    values: np.ndarray[Any, Any]


class Generators:
    """`generate` over this process and its helpers, which are started once, with the first prompts, and end with the `with`
    block."""

    def __init__(self, loaded: LoadedModel, precision: Precision, runtime: Runtime, count: int) -> None:
        """
        Args:
            loaded: the model for this process; helpers load the checkpoint at its folder.
            precision: that it was loaded with.
            runtime: of the stage; signals stop this process, which ends the others.
            count: of the processes, see `generator_count`. 1: this one alone, with all threads.
        """
        self._loaded, self._precision, self._runtime, self._count = loaded, precision, runtime, count
        self._helpers: list[Helper] = []
        self._stack = ExitStack()

    def __enter__(self) -> Generators:
        return self

    def _start(self) -> None:
        """Start the helpers, where they are not there yet."""
        if self._count == 1 or self._helpers:
            return
        own = max(1, usable_cores() // self._count)
        with ExitStack() as stack:
            for _ in range(1, self._count):
                helper = Helper(__name__, serve_prompts.__name__)
                stack.callback(helper.stop)
                helper.send((self._loaded.checkpoint.folder, self._precision, own))
                self._helpers.append(helper)
            stack.enter_context(threads(own))
            self._stack = stack.pop_all()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def generate(
        self, config: GenerationConfig, seed: int, prompts: Sequence[Prompt], numbers: Sequence[int] | None = None
    ) -> list[Output]:
        """Outputs in the order of the prompts, as `Engine.generate` gives them. numbers: see `Engine.stream`.

        Raises TfcliError: as Engine does; ENVIRONMENT where a helper has exited.
        """
        self._start()
        engine = Engine(self._loaded, config, seed, self._runtime)
        numbers = range(len(prompts)) if numbers is None else numbers
        count = min(self._count, len(prompts)) or 1
        for index, helper in enumerate(self._helpers[: count - 1], 1):
            own = slice(index, None, count)
            helper.send(_Request(config, seed, _changed(list(prompts[own]), _packed), list(numbers[own])))
        outputs: list[Output | None] = [None] * len(prompts)
        outputs[::count] = engine.generate(prompts[::count], numbers[::count])
        for index, helper in enumerate(self._helpers[: count - 1], 1):
            try:
                outputs[index::count] = _changed(helper.pipe.recv(), _unpacked)
            except (EOFError, OSError) as error:
                why = "killed, or it failed: its own message is above"
                fix = "run the same command again, with OMP_NUM_THREADS=1 if memory was short"
                what = f"process {index} of the generation exited"
                raise TfcliError(what, why=why, fix=fix, code=ExitCode.ENVIRONMENT) from error
        found = [output for output in outputs if output is not None]
        assert len(found) == len(prompts)
        return found


def generator_count(loaded: LoadedModel, config: GenerationConfig, num_documents: int) -> int:
    """How many processes should generate so many documents: one for each core where the work of drawing an image in each pays
    for their start, and 1 on a GPU. It is counted, not measured, so that a second run takes the same."""
    if loaded.device.type != "cpu":
        return 1
    _, height, width = loaded.latent_shape
    patches = height * width // loaded.checkpoint.content.patch_side**2
    flops = 2 * loaded.model.config.block_weights * patches * config.sampler.steps * num_documents
    return 1 if flops < _LEAST_FLOPS else min(usable_cores(), _MOST, num_documents)


def serve_prompts(pipe: Connection) -> None:
    """In a helper: load the model, then generate what is asked for until the other process ends this one."""
    settings: tuple[Path, Precision, int] = pipe.recv()
    folder, precision, own_threads = settings
    torch.set_num_threads(own_threads)
    loaded = load_model(folder, "cpu", precision)
    while True:
        request: _Request = pipe.recv()
        engine = Engine(loaded, request.config, request.seed, Runtime())
        pipe.send(_changed(engine.generate(_changed(request.prompts, _unpacked), request.numbers), _packed))


def _packed(value: Any) -> Any:
    return _Array(value.numpy()) if isinstance(value, Tensor) else value


def _unpacked(value: Any) -> Any:
    return torch.from_numpy(value.values) if isinstance(value, _Array) else value


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """A copy with `change` applied to all that is inside lists, tuples and dataclasses."""
    new = change(value)
    if new is not value:
        return new
    if isinstance(value, list | tuple):
        return type(value)(_changed(each, change) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: _changed(getattr(value, each.name), change) for each in fields(value)})
    return value
