"""The recipe sections of a training, without torch: a process that shares its steps gets them before it imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from stages.diffusion.config import DiffusionConfig
from stages.generation.config import GenerationConfig
from stages.model.config import ModelConfig
from stages.train_model.config import TrainConfig


@dataclass(frozen=True)
class Sections:
    """generation: the section [sample.generation], which previews use."""

    model: ModelConfig
    diffusion: DiffusionConfig
    train: TrainConfig
    generation: GenerationConfig
