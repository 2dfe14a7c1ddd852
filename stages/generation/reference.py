"""The same documents without a cache: one at a time, the whole sequence through the dense mask again at every step.

Slow and plain: what the engine is tested against, and measured against in the benchmark.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.core.seeds import torch_generator
from stages.diffusion.guidance import combined
from stages.diffusion.inpainting import edit_steps
from stages.diffusion.samplers import run_sampler
from stages.generation.branches import branch_pieces, branches_of, longest
from stages.generation.config import GenerationConfig
from stages.generation.layout import Line, LineMaker, num_patches
from stages.generation.loading import LoadedModel
from stages.generation.prompts import ImagePiece, Output, Piece, Prompt, Size, TextPiece
from stages.generation.token_sampling import Place, choose
from stages.model.attention import DenseAttention, allowed
from stages.model.transformer import ImageInputs, Inputs, Outputs


class Reference:
    """Generates with one loaded model and one set of options."""

    def __init__(self, loaded: LoadedModel, config: GenerationConfig, seed: int) -> None:
        self.loaded, self.config, self.seed = loaded, config, seed
        self.side = loaded.checkpoint.content.patch_side
        self.row_length = loaded.checkpoint.content.row_length
        self.lines = LineMaker(loaded.text, self.side, loaded.size_ids)

    @torch.inference_mode()
    def generate(self, prompt: Prompt, index: int) -> Output:
        """What `Engine.generate` gives for the prompt of that number, but for stop strings and the penalty for repetition."""
        text, output = self.loaded.text, Output()
        told = {token: size for size, token in self.loaded.size_ids.items()}
        fixed = prompt.size or (None if told else self.loaded.latent_shape[1:])
        if prompt.edit is not None:
            height, width = prompt.edit.latent.shape[1:]
        line = self.lines.line(prompt.pieces)
        run: list[int] = []
        num_images, draws = 0, prompt.draw
        if len(line.ids) > self.row_length:
            return Output([], "length")
        while True:
            size = (height, width) if prompt.edit is not None and not num_images else fixed
            if draws and size:
                token = self.lines.opening(size)[0]
            else:
                token = self._next(line, index, list(told) if draws else None, image=prompt.max_images > 0)
                opens = token == text.boi or token in told
                token = self.lines.opening(size)[0] if opens and size else token
            draws = False
            if token in told:
                size = told[token]
            opens = token == text.boi or token in told
            if token == text.eos or (opens and num_images >= prompt.max_images):
                output.ended = "eos" if token == text.eos else "images"
                break
            if not opens and len(run) >= self.config.max_text_tokens:
                output.ended = "text"
                break
            if not (self._has_room(line, prompt, size) if opens else len(line.ids) < self.row_length):
                output.ended = "length"
                break
            line = Line((*line.ids, *((token, text.boi) if token in told else (token,))), line.images)
            if not opens:
                run.append(token)
                continue
            output.pieces += self._text(run)
            run = []
            assert size is not None
            latent = self.draw(line, prompt, size, index, num_images)
            output.pieces.append(ImagePiece(latent))
            marks = (text.pad,) * num_patches(latent, self.side)
            line = Line((*line.ids, *marks, text.eoi), (*line.images, (len(line.ids), latent)))
            num_images += 1
            if prompt.draw and prompt.max_images == 1:
                output.ended = "drawn"
                break
        output.pieces += self._text(run)
        return output

    def _has_room(self, line: Line, prompt: Prompt, size: Size | None) -> bool:
        """Whether an image of that size ends within a row of the training, in all lines that guidance reads."""
        assert size is not None
        images = tuple(ImagePiece(latent) for _, latent in line.images)
        branches = branches_of(self.config.guided_by())
        return longest(len(line.ids), branches, images, prompt.negative, size, self.lines) <= self.row_length

    def draw(self, line: Line, prompt: Prompt, size: Size, index: int, number: int) -> Tensor:
        """The image behind a line that ends in BOI."""
        edit = prompt.edit if number == 0 else None
        shape = (1, self.loaded.latent_shape[0], *size)
        generator = torch_generator(self.seed, "image", index, number)
        images = tuple(ImagePiece(latent) for _, latent in line.images)
        diffusion, sampler, guidance = self.loaded.diffusion, self.config.sampler, self.config.guided_by()

        def draw_noise() -> Tensor:
            return torch.randn(shape, generator=generator).to(self.loaded.device)

        def denoise(x_t: Tensor, t: int) -> Tensor:
            weights = guidance.weights(has_images=bool(images), sigma=float(diffusion.sigma[t]))
            estimates = []
            for branch in weights:
                pieces = branch_pieces(branch, images, prompt.negative)
                read = line if branch == "full" else self.lines.line(pieces, size)
                estimates.append(self._estimate(read, x_t, t))
            return combined(estimates, list(weights.values()), guidance.rescale)

        limit = self.loaded.checkpoint.content.latent_limit
        if edit is None:
            return run_sampler(sampler.denoising_steps(draw_noise(), diffusion, draw_noise, limit), denoise)[0]
        args = (edit.strength, draw_noise(), diffusion, draw_noise, limit)
        return run_sampler(edit_steps(sampler, edit.latent[None], edit.change_hw, *args), denoise)[0]

    def _text(self, run: list[int]) -> list[Piece]:
        return [TextPiece(self.loaded.text.decode(run))] if run else []

    def _next(self, line: Line, index: int, only: list[int] | None, *, image: bool) -> int:
        """The next token; only: among these. image: one may come."""
        text, sizes = self.loaded.text, list(self.lines.sizes.values())
        logits_V = self.loaded.model.text_head(self._outputs(line, []).hidden_ND[-1]).float()
        never = [text.pad, text.bos, text.eoi, *([text.boi] if sizes else [])]
        never += [] if image else [text.boi, *sizes]
        logits_V[[token for token in range(len(logits_V)) if token not in only] if only else never] = -torch.inf
        return choose(logits_V[None], [Place(index, len(line.ids))], self.config, self.seed)[0]

    def _estimate(self, line: Line, x_t: Tensor, t: int) -> Tensor:
        marks = (self.loaded.text.pad,) * num_patches(x_t, self.side)
        longer = Line((*line.ids, *marks), (*line.images, (len(line.ids), x_t[0])))
        outputs = self._outputs(longer, [0] * len(line.images) + [t])
        return self.loaded.diffusion.to_x0(self.loaded.model.image_outputs(outputs)[-1], x_t, t)

    def _outputs(self, line: Line, times: list[int]) -> Outputs:
        """One pass over a whole line. times: of its images; none given: all are clean."""
        device = self.loaded.device
        ids_N = torch.tensor(line.ids, device=device)
        image_N = torch.full_like(ids_N, -1)
        images = []
        for number, (first, latent) in enumerate(line.images):
            places_P = torch.arange(first, first + num_patches(latent, self.side), device=device)
            image_N[places_P] = number
            t_I = torch.tensor([times[number] if times else 0], device=device)
            images.append(ImageInputs(latent[None].to(device), t_I, places_P[None]))
        text_T = (image_N < 0).nonzero()[:, 0]
        bidirectional = self.loaded.model.config.image_attention == "bidirectional"
        mask_NN = allowed(torch.zeros_like(ids_N), image_N, bidirectional=bidirectional)
        inputs = Inputs(torch.arange(len(ids_N), device=device), ids_N[text_T], text_T, tuple(images))
        outputs: Outputs = self.loaded.model.hidden(inputs, DenseAttention(mask_NN))
        return outputs
