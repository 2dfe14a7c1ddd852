"""The recipe section [model]: the transformer's size. Vocabulary, patch size and latent channels come with the data."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stages.core.config import Section


class LinearCodec(Section):
    """One linear layer each way between patches and vectors (paper, section 3).

    grid_positions: add an embedding of each patch's row and column. The paper names no position but RoPE, under which a
    patch learns its place only from its distance to BOI; a small model in a short run learns it too late.
    """

    kind: Literal["linear"] = "linear"
    grid_positions: bool = False


class ModelConfig(Section):
    """A Llama-style transformer (paper, table 2). ffn_width 0: 8/3 of the width, rounded up to 64."""

    width: int = Field(256, ge=8)
    layers: int = Field(8, ge=1)
    heads: int = Field(4, ge=1)
    ffn_width: int = Field(0, ge=0)
    rope_base: float = Field(10_000.0, gt=0)
    norm_epsilon: float = Field(1e-5, gt=0)
    time_features: int = Field(256, ge=2)
    image_attention: Literal["bidirectional", "causal"] = "bidirectional"
    codec: LinearCodec = LinearCodec()

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must split into {self.heads} heads of an even size")
        return self

    @property
    def feed_forward_width(self) -> int:
        return self.ffn_width or -(-self.width * 8 // 3 // 64) * 64
