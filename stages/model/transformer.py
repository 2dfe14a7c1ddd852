"""The Transfusion transformer: text and patches in one sequence. The file to read first.

A batch is a flat sequence of N elements (all documents, one after another). Text elements are looked up, patches come from
the patch codec with the embedding of their image's t; then the same blocks for both; then a head for each. The time t enters
at the patches only: there is no time conditioning inside (paper, section 3). As in Llama: RMSNorm before attention and
feed-forward layer, SwiGLU, rotary positions, no biases, untied embeddings.

Legend: N elements, D width, H heads, d head size, T text elements, V vocabulary; I images of one grid, P patches each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.model.attention import Attention
from stages.model.config import ModelConfig
from stages.model.cpu.ops import linear, matmul_dtype, rms_norm, swiglu
from stages.model.patches import Encoded, ResidualBlock, build_patches
from stages.model.rotary import Rotary, grid_positions, rotary_table


@dataclass(frozen=True)
class ModelDims:
    """The model's dimensions that follow from the data and are read from its artifacts."""

    vocab_size: int
    latent_channels: int
    patch_side: int


@dataclass(frozen=True)
class ImageInputs:
    """Images of one grid in a batch: noised (or clean, t = 0) latents, their t, and the indices of their patches among the
    elements."""

    latents_IChw: Tensor
    t_I: Tensor
    patch_index_IP: Tensor


@dataclass(frozen=True)
class Inputs:
    """A flat batch. Elements that are neither text nor patch are padding and hold zeros.

    positions_N: position of each element in its document. text_ids_T, text_index_T: ids of the text elements and their indices
    among the N. images: images with a prediction, by grid. context: images that are only input.
    """

    positions_N: Tensor
    text_ids_T: Tensor
    text_index_T: Tensor
    images: tuple[ImageInputs, ...]
    context: tuple[ImageInputs, ...] = ()

    @property
    def all_images(self) -> tuple[ImageInputs, ...]:
        return (*self.images, *self.context)


@dataclass(frozen=True)
class Outputs:
    """Hidden states (N, D) after the final norm, and for each entry of Inputs.images its patch indices (I, P) and its
    encoding."""

    hidden_ND: Tensor
    images: tuple[tuple[Tensor, Encoded], ...]


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.epsilon)


class Linear(nn.Linear):
    """Without a bias, which no layer of the blocks has."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


class Block(nn.Module):
    """Attention and SwiGLU, each after a norm and added to the residual stream. For inference on CPU: `inference.FusedBlock`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, ffn_width = config.width, config.feed_forward_width
        self.heads = config.heads
        self.attention_norm = RMSNorm(width, config.norm_epsilon)
        self.qkv = Linear(width, 3 * width)
        self.attention_out = Linear(width, width)
        head_dim = width // config.heads
        self.query_norm = RMSNorm(head_dim, config.norm_epsilon) if config.qk_norm else None
        self.key_norm = RMSNorm(head_dim, config.norm_epsilon) if config.qk_norm else None
        self.feed_forward_norm = RMSNorm(width, config.norm_epsilon)
        self.gate_up = Linear(width, 2 * ffn_width)
        self.down = Linear(ffn_width, width)

    def forward(self, x_ND: Tensor, rotary: Rotary, attention: Attention, layer: int) -> Tensor:
        qkv_N3Hd = self.qkv(self.attention_norm(x_ND)).unflatten(-1, (3, self.heads, -1))
        if self.query_norm is not None and self.key_norm is not None:
            q, k, v = qkv_N3Hd.unbind(1)
            qkv_N3Hd = torch.stack((self.query_norm(q), self.key_norm(k), v), dim=1)
        x_ND = x_ND + self.attention_out(attention(layer, qkv_N3Hd, rotary).flatten(1))
        out: Tensor = x_ND + self.down(swiglu(self.gate_up(self.feed_forward_norm(x_ND))))
        return out


class Transfusion(nn.Module):
    """The model. `hidden` maps a batch to its outputs; `text_logits` and `image_outputs` are the two heads; a call is all
    three, which is what training needs."""

    def __init__(self, config: ModelConfig, dims: ModelDims) -> None:
        super().__init__()
        self.config = config
        self.dims = dims
        assert config.rope_base != "auto", "the training derives it first"
        self.rope_base = config.rope_base
        self.text_embedding = nn.Embedding(dims.vocab_size, config.width)
        self.patches = build_patches(
            config.codec, dims.latent_channels, dims.patch_side, config.width, config.time_features
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = RMSNorm(config.width, config.norm_epsilon)
        self.text_head = nn.Linear(config.width, dims.vocab_size, bias=False)

    def initialise(
        self, generator: torch.Generator, copy_into: Callable[[Tensor, Tensor], object] = Tensor.copy_
    ) -> None:
        """Random weights: standard deviation fan_in^-1/2, smaller by sqrt(2 layers) where a layer adds to the stream; biases 0.

        An embedding is looked up, so that its fan-in is 1: text enters the stream with the same norm as patches.
        copy_into(weight, values): copies the full tensor of random values into a weight, of which this process may hold a
        shard only.
        """
        num_residuals = sum(isinstance(module, ResidualBlock) for module in self.patches.modules())
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if weight.ndim < 2:
                    weight.fill_(1.0 if name.endswith("norm.weight") else 0.0)
                    continue
                std = 1.0 if name == "text_embedding.weight" else weight.shape[1:].numel() ** -0.5
                if name.endswith(("attention_out.weight", "down.weight")):
                    std /= (2 * self.config.layers) ** 0.5
                if name.endswith("residual_out.weight"):
                    std /= num_residuals**0.5
                copy_into(weight, torch.randn(weight.shape, generator=generator) * std)

    def forward(self, inputs: Inputs, attention: Attention, text_index_T: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Next-token logits (T, V) of the elements at `text_index_T`, and the predictions for the images, by grid."""
        outputs = self.hidden(inputs, attention)
        return self.text_logits(outputs, text_index_T), self.image_outputs(outputs)

    def hidden(self, inputs: Inputs, attention: Attention) -> Outputs:
        """The hidden states after the final norm, without the heads."""
        width = self.config.width
        x_ND = self.text_embedding.weight.new_zeros(len(inputs.positions_N), width)
        x_ND = x_ND.index_copy(0, inputs.text_index_T, self.text_embedding(inputs.text_ids_T))
        images = []
        for image in inputs.all_images:
            encoded = self.patches.encode(image.latents_IChw, image.t_I)
            x_ND = x_ND.index_copy(0, image.patch_index_IP.flatten(), encoded.vectors_IPD.flatten(0, 1).to(x_ND.dtype))
            images.append((image.patch_index_IP, encoded))
        cos, sin = rotary_table(self._positions(inputs), width // self.config.heads, self.rope_base)
        rotary = (cos.to(matmul_dtype(x_ND)), sin.to(matmul_dtype(x_ND)))
        for layer, block in enumerate(self.blocks):
            x_ND = block(x_ND, rotary, attention, layer)
        return Outputs(self.final_norm(x_ND), tuple(images[: len(inputs.images)]))

    def _positions(self, inputs: Inputs) -> Tensor:
        if self.config.image_positions == "raster":
            return inputs.positions_N
        side = self.dims.patch_side
        return grid_positions(
            inputs.positions_N, ((i.patch_index_IP, i.latents_IChw.shape[-1] // side) for i in inputs.all_images)
        )

    def text_logits(self, outputs: Outputs, index_T: Tensor) -> Tensor:
        """Next-token logits (T, V) of the elements at `index_T` only."""
        logits: Tensor = self.text_head(outputs.hidden_ND[index_T])
        return logits

    def image_outputs(self, outputs: Outputs) -> tuple[Tensor, ...]:
        """The predictions for the images (the noise, or another diffusion target), (I, C, h, w) for each grid."""
        return tuple(self.patches.decode(outputs.hidden_ND[index], encoded) for index, encoded in outputs.images)
