"""The recipe section [model]: the transformer's size. Vocabulary, patch size and latent channels come with the data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.core.config import Section


class LinearCodec(Section):
    """One linear layer each way between patches and vectors (paper, section 3)."""

    kind: Literal["linear"] = "linear"
    """One linear layer from a patch to a vector of the transformer and one back."""
    time_at: Literal["vector", "patch"] = "vector"
    """Where the embedding of the time t is added. "vector": to the projected patch, at the model's width, which fits the
    parameter counts of the paper's table 7. "patch": to the patch's values, before the projection (the paper's footnote 6)."""
    grid_positions: bool = False
    """Add a learned projection of each patch's row and column. The paper names no position but RoPE, with which a patch learns
    its place only from its distance to BOI; a small model in a short run learns it too late."""


class UNetCodec(Section):
    """Down blocks in, up blocks out, around the transformer, with skip connections (paper, section 3). The paper gives no list
    of blocks, only the sum: about 0.27 B weights."""

    kind: Literal["unet"] = "unet"
    """The down half of a U-Net from latents to vectors and the up half back; for pack.patch_side 2, 4 or 8."""
    channels: int = Field(512, ge=8)
    """Channels at the resolution of the latents; doubled at each halving, up to widest."""
    widest: int = Field(1024, ge=8)
    """The most channels that a level has."""
    blocks: int = Field(2, ge=1)
    """Residual blocks at each level on the way in; the way out has one more."""

    def widths(self, side: int) -> list[int]:
        """Channels at each resolution, finest first: log2(side) halvings."""
        return [min(self.channels << level, self.widest) for level in range(side.bit_length())]


Codec = Annotated[LinearCodec | UNetCodec, Field(discriminator="kind")]


class ModelConfig(Section):
    """The size and shape of the transformer, in the style of Llama (paper, section 3 and table 2). Vocabulary, patch size and
    latent channels come with the data."""

    width: int = Field(256, ge=8)
    """Size d of the vectors that the transformer works on (paper, table 2: 768 to 4096)."""
    layers: int = Field(8, ge=1)
    """Number of blocks, each of attention and a feed-forward layer (paper, table 2: 16 to 32)."""
    heads: int = Field(4, ge=1)
    """Attention heads of each block (paper, table 2: 12 to 32). width / heads must be a whole, even number."""
    ffn_width: int = Field(0, ge=0)
    """Inner size of the SwiGLU feed-forward layers. 0: 8/3 of width, rounded up to a multiple of 64."""
    rope_base: Annotated[float, Field(gt=0)] | Literal["auto"] = 10_000.0
    """Base of the rotary position angles (RoPE). A smaller one suits short documents: the slow angles then turn at all. "auto":
    the training takes the smallest of 100, 300, 1,000, 3,000 and 10,000 that is at least the length of its documents, of which
    1 in 100 may be longer: the slowest angle then turns once in about 6 such lengths. A fine-tuning takes that of its
    checkpoint. The checkpoint holds the number."""
    norm_epsilon: float = Field(1e-5, gt=0)
    """Added to the mean square in RMSNorm before the root."""
    time_features: int = Field(256, ge=2, multiple_of=2)
    """Sinusoids from which the embedding of the diffusion time t is computed."""
    image_attention: Literal["bidirectional", "causal"] = "bidirectional"
    """What the patches of one image see of each other: all ("bidirectional", paper, section 3), or the ones before alone
    ("causal", the ablation of the paper's table 5)."""
    image_positions: Literal["raster", "grid"] = "raster"
    """How RoPE counts the patches of an image: one after the other ("raster", paper), or half of each head's angles by row and
    half by column ("grid", which needs width / heads to be a multiple of 4)."""
    qk_norm: bool = False
    """RMSNorm over each head's queries and keys. It makes large models stable; Chameleon has it, the paper's model does not."""
    codec: Codec = LinearCodec()
    """The layers between latent patches and the transformer's vectors: "linear" or "unet" (paper, section 3, table 7)."""

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

    @property
    def block_weights(self) -> int:
        """Weights in the matrices of all blocks: attention and the feed-forward layers, without norms."""
        return (4 * self.width**2 + 3 * self.width * self.feed_forward_width) * self.layers
