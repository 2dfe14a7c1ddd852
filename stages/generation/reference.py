"""The same documents without a cache: one at a time, the whole sequence through the dense mask again at every step.

Slow and plain: the engine is tested against it, and measured against it in the benchmark. A document so far is a TokenSequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.core.seeds import torch_generator
from stages.diffusion.guidance import combined
from stages.diffusion.inpainting import edit_steps
from stages.diffusion.samplers import run_sampler, sample
from stages.generation.branches import branch_pieces, branches_of, longest_branch
from stages.generation.config import GenerationConfig
from stages.generation.layout import SequenceBuilder, TokenSequence, num_patches
from stages.generation.loading import LoadedModel
from stages.generation.prompts import ImagePiece, Output, Piece, Prompt, Size, TextPiece
from stages.generation.token_sampling import TokenPosition, sample_tokens
from stages.model.attention import DenseAttention, allowed
from stages.model.transformer import ImageInputs, Inputs, Outputs


class Reference:
    """Generates with one loaded model and one set of options."""

    def __init__(self, loaded: LoadedModel, config: GenerationConfig, seed: int) -> None:
        self.loaded, self.config, self.seed = loaded, config, seed
        self.side = loaded.checkpoint.content.patch_side
        self.row_length = loaded.checkpoint.content.row_length
        self.builder = SequenceBuilder(loaded.text, self.side, loaded.size_ids)
        self.size_of_id = {token: size for size, token in loaded.size_ids.items()}

    @torch.inference_mode()
    def generate(self, prompt: Prompt, index: int) -> Output:
        """The output of `Engine.generate` for the prompt of that number, without stop strings and the repetition penalty."""
        output, sequence = Output(), self.builder.build(prompt.pieces)
        if len(sequence.ids) > self.row_length:
            return Output([], "length")
        run: list[int] = []
        num_images, must_open = 0, prompt.image_next
        while not output.ended:
            token, size = self._choose(sequence, prompt, index, num_images, must_open=must_open)
            must_open = False
            output.ended = self._end_reason(sequence, prompt, token, size, len(run), num_images)
            if output.ended:
                break
            boi = (self.loaded.text.boi,) if token in self.size_of_id else ()
            sequence = TokenSequence((*sequence.ids, token, *boi), sequence.images)
            if not self._opens(token):
                run.append(token)
                continue
            output.pieces += self._text(run)
            run = []
            assert size is not None
            latent = self.image(sequence, prompt, size, index, num_images)
            output.pieces.append(ImagePiece(latent))
            image = (len(sequence.ids), latent)
            sequence = TokenSequence(
                (*sequence.ids, *self.builder.finished_image(latent).ids), (*sequence.images, image)
            )
            num_images += 1
            output.ended = "drawn" if prompt.image_next and prompt.max_images == 1 else ""
        output.pieces += self._text(run)
        return output

    def _choose(
        self, sequence: TokenSequence, prompt: Prompt, index: int, num_images: int, *, must_open: bool
    ) -> tuple[int, Size | None]:
        """The next id, and the size of the image that it would open."""
        size = prompt.size or (None if self.size_of_id else self.loaded.latent_shape[1:])
        if prompt.edit is not None and not num_images:
            height, width = prompt.edit.latent.shape[1:]
            size = (height, width)
        if must_open and size:
            return self.builder.opening(size)[0], size
        only = list(self.size_of_id) if must_open else None
        token = self._next(sequence, index, only, image=prompt.max_images > 0)
        if self._opens(token) and size:
            token = self.builder.opening(size)[0]
        return token, self.size_of_id.get(token, size)

    def _opens(self, token: int) -> bool:
        return token == self.loaded.text.boi or token in self.size_of_id

    def _end_reason(
        self, sequence: TokenSequence, prompt: Prompt, token: int, size: Size | None, run_length: int, num_images: int
    ) -> str:
        """Why the document ends instead of taking the token; "" where it does not end."""
        if token == self.loaded.text.eos:
            return "eos"
        if not self._opens(token):
            if run_length >= self.config.max_text_tokens:
                return "text"
            return "" if len(sequence.ids) < self.row_length else "length"
        if num_images >= prompt.max_images:
            return "images"
        return "" if self._has_room(sequence, prompt, size) else "length"

    def _has_room(self, sequence: TokenSequence, prompt: Prompt, size: Size | None) -> bool:
        """Whether an image of that size ends within a row of the training, in all branches of guidance."""
        assert size is not None
        images = tuple(ImagePiece(latent) for _, latent in sequence.images)
        branches = branches_of(self.config.guidance_settings())
        length = longest_branch(len(sequence.ids), branches, images, prompt.negative, size, self.builder)
        return length <= self.row_length

    def image(self, sequence: TokenSequence, prompt: Prompt, size: Size, index: int, number: int) -> Tensor:
        """The image (C, h, w) after a sequence that ends in BOI. number: of the image in its document, from 0."""
        edit = prompt.edit if number == 0 else None
        shape = (1, self.loaded.latent_shape[0], *size)
        generator = torch_generator(self.seed, "image", index, number)
        images = tuple(ImagePiece(latent) for _, latent in sequence.images)
        diffusion, sampler, guidance = self.loaded.diffusion, self.config.sampler, self.config.guidance_settings()

        def draw_noise() -> Tensor:
            return torch.randn(shape, generator=generator).to(self.loaded.device)

        def denoise(x_t: Tensor, t: int) -> Tensor:
            weights = guidance.weights(has_images=bool(images), sigma=float(diffusion.sigma[t]))
            estimates = []
            for branch in weights:
                pieces = branch_pieces(branch, images, prompt.negative)
                context = sequence if branch == "full" else self.builder.build(pieces, size)
                estimates.append(self._estimate(context, x_t, t))
            return combined(estimates, list(weights.values()), guidance.rescale)

        limit = self.loaded.checkpoint.content.latent_limit
        if edit is None:
            return sample(sampler, denoise, draw_noise(), diffusion, draw_noise, limit)[0]
        args = (edit.strength, draw_noise(), diffusion, draw_noise, limit)
        return run_sampler(edit_steps(sampler, edit.latent[None], edit.change_hw, *args), denoise)[0]

    def _text(self, run: list[int]) -> list[Piece]:
        return [TextPiece(self.loaded.text.decode(run))] if run else []

    def _next(self, sequence: TokenSequence, index: int, only: list[int] | None, *, image: bool) -> int:
        """The next token. only: one of these (None: any). image: whether an image may come."""
        text, size_ids = self.loaded.text, list(self.builder.size_ids.values())
        logits_V = self.loaded.model.text_head(self._outputs(sequence, []).hidden_ND[-1]).float()
        never = [text.pad, text.bos, text.eoi, *([text.boi] if size_ids else [])]
        never += [] if image else [text.boi, *size_ids]
        logits_V[[token for token in range(len(logits_V)) if token not in only] if only else never] = -torch.inf
        position = TokenPosition(index, len(sequence.ids))
        return sample_tokens(logits_V[None], [position], self.config, self.seed)[0]

    def _estimate(self, sequence: TokenSequence, x_t: Tensor, t: int) -> Tensor:
        """The estimate of x_0, (1, C, h, w), for one image (x_t, t) after a sequence."""
        patches = (self.loaded.text.pad,) * num_patches(x_t, self.side)
        image = (len(sequence.ids), x_t[0])
        longer = TokenSequence((*sequence.ids, *patches), (*sequence.images, image))
        outputs = self._outputs(longer, [0] * len(sequence.images) + [t])
        return self.loaded.diffusion.to_x0(self.loaded.model.image_outputs(outputs)[-1], x_t, t)

    def _outputs(self, sequence: TokenSequence, timesteps: list[int]) -> Outputs:
        """One pass over a whole sequence. timesteps: of its images; empty: all are clean."""
        device = self.loaded.device
        ids_N = torch.tensor(sequence.ids, device=device)
        image_N = torch.full_like(ids_N, -1)
        images = []
        for number, (first, latent) in enumerate(sequence.images):
            index_P = torch.arange(first, first + num_patches(latent, self.side), device=device)
            image_N[index_P] = number
            t_I = torch.tensor([timesteps[number] if timesteps else 0], device=device)
            images.append(ImageInputs(latent[None].to(device), t_I, index_P[None]))
        text_T = (image_N < 0).nonzero()[:, 0]
        bidirectional = self.loaded.model.config.image_attention == "bidirectional"
        mask_NN = allowed(torch.zeros_like(ids_N), image_N, bidirectional=bidirectional)
        inputs = Inputs(torch.arange(len(ids_N), device=device), ids_N[text_T], text_T, tuple(images))
        outputs: Outputs = self.loaded.model.hidden(inputs, DenseAttention(mask_NN))
        return outputs
