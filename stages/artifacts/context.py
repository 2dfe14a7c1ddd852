"""What every stage's `run` gets in addition to its recipe sections and inputs."""

from __future__ import annotations

from dataclasses import dataclass

from stages.artifacts.folder import Build
from stages.core.runtime import Runtime


@dataclass(frozen=True)
class StageContext:
    """build: the artifact that the stage makes. runtime: what cannot change the result (device, workers, events, signals).
    seed: the recipe's seed, from which every random draw of the stage is derived."""

    build: Build
    runtime: Runtime
    seed: int
