"""The recipe section [model]: the transformer's size. Vocabulary, patch size and latent channels come with the data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.core.config import Section


class LinearCodec(Section):
    """One linear layer each way between patches and vectors (paper, section 3).

    time_at: where the embedding of t is added. "vector": to the projected patches, at the model's width, which is the
    reading that fits the paper's parameter counts; "patch": to the patch's values, before the projection (its footnote 6).
    grid_positions: add an embedding of each patch's row and column. The paper names no position but RoPE, under which a
    patch learns its place only from its distance to BOI; a small model in a short run learns it too late.
    """

    kind: Literal["linear"] = "linear"
    time_at: Literal["vector", "patch"] = "vector"
    grid_positions: bool = False


class UNetCodec(Section):
    """Down blocks in, up blocks out, around the transformer, with skip connections (paper, section 3; patch sides 2, 4, 8).

    channels: at the latents' own resolution; doubled at each halving up to `widest`. blocks: residual blocks a level and a
    way (one more on the way out). The paper gives no block list, only the sum: about 0.27 B weights.
    """

    kind: Literal["unet"] = "unet"
    channels: int = Field(512, ge=8)
    widest: int = Field(1024, ge=8)
    blocks: int = Field(2, ge=1)

    def widths(self, side: int) -> list[int]:
        """Channels at each resolution, finest first: log2(side) halvings."""
        return [min(self.channels << level, self.widest) for level in range(side.bit_length())]


Codec = Annotated[LinearCodec | UNetCodec, Field(discriminator="kind")]


class ModelConfig(Section):
    """A Llama-style transformer (paper, table 2). ffn_width 0: 8/3 of the width, rounded up to 64.

    image_attention: "causal" is the paper's ablation (table 5). qk_norm: RMSNorm of each head's queries and keys (Chameleon's
    stabiliser, not the paper's). image_positions: "grid" turns one half of a head's angles by a patch's row and the other by
    its column, both counted from the image's first place; the paper counts patches in raster order.
    """

    width: int = Field(256, ge=8)
    layers: int = Field(8, ge=1)
    heads: int = Field(4, ge=1)
    ffn_width: int = Field(0, ge=0)
    rope_base: float = Field(10_000.0, gt=0)
    norm_epsilon: float = Field(1e-5, gt=0)
    time_features: int = Field(256, ge=2, multiple_of=2)
    image_attention: Literal["bidirectional", "causal"] = "bidirectional"
    image_positions: Literal["raster", "grid"] = "raster"
    qk_norm: bool = False
    codec: Codec = LinearCodec()

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(f"width {self.width} must split into {self.heads} heads of an even size")
        if self.image_positions == "grid" and (self.width // self.heads) % 4:
            raise ValueError(
                f'image_positions = "grid" needs heads of a size that 4 divides, not {self.width // self.heads}'
            )
        return self

    @property
    def feed_forward_width(self) -> int:
        return self.ffn_width or -(-self.width * 8 // 3 // 64) * 64
