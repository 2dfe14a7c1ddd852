"""Parity of the engine's KV cache with the reference without one, on a trained model; and that known faults of other
implementations would be seen."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from stages.core.runtime import Runtime
from stages.diffusion.samplers import DdimSampler, DdpmSampler, Sampler
from stages.generation import engine as engine_module
from stages.generation.config import GenerationConfig
from stages.generation.engine import Decoder, Engine
from stages.generation.kv_cache import CachedAttention
from stages.generation.layout import TokenSequence, num_patches
from stages.generation.prompts import ImagePiece, Output, Prompt, TextPiece
from stages.generation.reference import Reference
from stages.generation.state import DocumentState
from stages.model.cpu.inference import optimize_for_inference
from stages.model.transformer import Inputs
from tests.generation.trained import picture, trained_model

# Of latents between -4 and 4, with a model that predicts the velocity, so that no step makes rounding larger: 2^-24 (float32) of
# 4, times 8 steps, times 5 (the weights of guidance 3: 3 and -2) is 1e-5. Measured: up to 1.7e-6, with 1 thread and with 2.
TOLERANCE = 1e-5
STEPS, GUIDANCE = 8, 3.0


@pytest.fixture(scope="module")
def trained() -> Any:
    return trained_model()


def prompts() -> list[Prompt]:
    """Text to image; two images with text between; an image that is only read; both and an image to generate; nothing at all."""
    read = picture(3, torch.Generator().manual_seed(5))
    wide = torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(6))
    return [
        Prompt((TextPiece("b"),), image_next=True),
        Prompt((TextPiece("a"),), max_images=3),
        Prompt((ImagePiece(read),), max_images=0),
        Prompt((TextPiece("d"), ImagePiece(read), TextPiece("a")), image_next=True, max_images=2),
        Prompt((), max_images=2),
        Prompt((TextPiece("c"),), image_next=True, negative="a"),
        Prompt((TextPiece("c"), ImagePiece(wide)), image_next=True, size=(6, 4)),
    ]


def distance(found: Output, expected: Output) -> float:
    """The largest difference of latents; infinite where texts, ends or the order of pieces differ."""
    if found.ended != expected.ended or len(found.pieces) != len(expected.pieces):
        return float("inf")
    largest = 0.0
    for one, other in zip(found.pieces, expected.pieces, strict=True):
        if isinstance(one, ImagePiece) and isinstance(other, ImagePiece):
            largest = max(largest, (one.latent - other.latent).abs().max().item())
        elif one != other:
            return float("inf")
    return largest


@pytest.fixture(scope="module", params=["plain", "optimized"])
def engines(trained: Any, request: pytest.FixtureRequest) -> Any:
    """The engine's model: as it was trained, and optimized for inference, which users run (in float32: oneDNN has no
    float64)."""
    return optimized(trained, torch.float32) if request.param == "optimized" else trained


def optimized(trained: Any, dtype: torch.dtype) -> Any:
    parts = copy.copy(trained)
    parts.model = optimize_for_inference(copy.deepcopy(trained.model), dtype, trained.diffusion.num_steps)
    return parts


def far(engines: Any, trained: Any, config: GenerationConfig) -> float:
    """The largest distance between the engine and the reference of the plain model, over all prompts."""
    found = Engine(engines, config, 7, Runtime()).generate(prompts())
    expected = [Reference(trained, config, 7).generate(prompt, index) for index, prompt in enumerate(prompts())]
    assert any(len(output.pieces) > 2 for output in expected)  # a second image after text, or text after an image
    return max(distance(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("guidance", [1.0, GUIDANCE])
@pytest.mark.parametrize("sampler", [DdimSampler(steps=STEPS), DdpmSampler(steps=STEPS)], ids=str)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_kv_cache_parity_of_a_trained_model(
    engines: Any, trained: Any, sampler: Sampler, guidance: float, batch_size: int
) -> None:
    config = GenerationConfig(sampler=sampler, guidance=guidance, max_text_tokens=6, batch_size=batch_size)
    assert far(engines, trained, config) < TOLERANCE


def test_kv_cache_parity_in_float64(trained: Any) -> None:
    """The differences in float32 are rounding."""
    exact = copy.copy(trained)
    exact.model = copy.deepcopy(trained.model).double()
    torch.set_default_dtype(torch.float64)
    try:
        assert (
            far(exact, exact, GenerationConfig(sampler=DdimSampler(steps=STEPS), guidance=1.0, max_text_tokens=6))
            < 1e-9
        )
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_images_of_the_trained_model_are_those_of_their_letters(trained: Any) -> None:
    """So that the tests here use a model whose attention and timesteps matter."""
    config = GenerationConfig(sampler=DdimSampler(steps=20), guidance=2.0, max_text_tokens=6)
    (output,) = Engine(trained, config, 7, Runtime()).generate([Prompt((TextPiece("a"),), max_images=3)])
    first, text, second = output.pieces
    assert text == TextPiece("b")
    for piece, letter in ((first, 0), (second, 1)):
        assert isinstance(piece, ImagePiece)
        error = [(piece.latent - picture(each, torch.Generator())).square().mean().item() for each in range(4)]
        assert error.index(min(error)) == letter


def keeps_noisy(self: Decoder, documents: list[DocumentState]) -> torch.Tensor:
    """The last step's keys and values are kept for the finished image."""
    for document in documents:
        self.cache.lengths[document.slots["full"]] += num_patches(document.latents[-1], self.patch_side)
    return self._append(
        [document.slots["full"] for document in documents], [TokenSequence((self.text.eoi,))] * len(documents)
    )


def leaves_out(self: Decoder, documents: list[DocumentState]) -> torch.Tensor:
    """Nothing of a finished image is kept: EOI follows BOI."""
    return self._append(
        [document.slots["full"] for document in documents], [TokenSequence((self.text.eoi,))] * len(documents)
    )


def _at_timestep(t: int) -> Any:
    real = engine_module.build_inputs

    def build_inputs(*args: Any) -> Inputs:
        inputs = real(*args)
        return replace(inputs, images=tuple(replace(i, t_I=torch.full_like(i.t_I, t)) for i in inputs.images))

    return build_inputs


def _same_branch(self: DocumentState, branches: Any, builder: Any) -> Any:
    """Guidance compares with the text of the first prompt."""
    for branch in branches:
        if branch != "full" and branch not in self.branch_contents:
            self.branch_contents[branch] = (0, self.size)  # type: ignore[assignment]
            yield self.slots[branch], builder.build(prompts()[0].pieces, self.size)


def _shifted(self: CachedAttention, layer: int, *args: Any) -> torch.Tensor:
    """Segments start one element too early, over the last one of the document."""
    segments = tuple(replace(segment, start=max(segment.start - 1, 0), mask_TM=None) for segment in self.segments)
    return real_attend(CachedAttention(self.cache, segments, self.batched), layer, *args)


real_attend = CachedAttention.attend
FAULTS: dict[str, tuple[Any, str, Any]] = {
    "noisy cache kept for a finished image": (Decoder, "_read_images", keeps_noisy),
    "no clean pass": (Decoder, "_read_images", leaves_out),
    "clean images with the t of noise": (engine_module, "build_inputs", _at_timestep(1000)),
    "clean images with the t of some noise": (engine_module, "build_inputs", _at_timestep(300)),
    "guidance compares with a prompt": (DocumentState, "stale_branches", _same_branch),
    "new elements over the last one": (CachedAttention, "attend", _shifted),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_known_fault_of_a_kv_cache_would_be_seen(
    engines: Any, trained: Any, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GenerationConfig(sampler=DdimSampler(steps=STEPS), guidance=GUIDANCE, max_text_tokens=6)
    monkeypatch.setattr(*FAULTS[fault])
    assert far(engines, trained, config) > 1000 * TOLERANCE


@pytest.fixture(scope="module")
def many() -> list[Prompt]:
    letters = random.Random(0).choices("abcd", k=24)
    return [
        Prompt((TextPiece(letter),), image_next=number % 3 == 0, max_images=2) for number, letter in enumerate(letters)
    ]


def test_batch_size_neighbours_and_order_change_nothing_but_rounding(engines: Any, many: list[Prompt]) -> None:
    """Greedy texts equal; latents, which a decoder would take for pixels between -1 and 1, within 2 of 255."""
    config = GenerationConfig(sampler=DdimSampler(steps=6), guidance=3.0, max_text_tokens=6)
    numbers = list(range(len(many)))
    shuffled = random.Random(1).sample(numbers, len(many))

    def outputs(size: int, order: list[int]) -> dict[int, Output]:
        engine = Engine(engines, config.model_copy(update={"batch_size": size}), 7, Runtime())
        return dict(zip(order, engine.generate([many[number] for number in order], order), strict=True))

    expected = outputs(16, numbers)
    for size, order in ((1, numbers), (3, numbers), (16, shuffled), (3, shuffled)):
        found = outputs(size, order)
        assert max(distance(found[number], expected[number]) for number in numbers) < 2 * 2 / 255
    assert len({str(output.pieces[0]) for output in expected.values() if output.pieces}) > 4


def test_the_same_call_gives_the_same_bytes(engines: Any, many: list[Prompt]) -> None:
    config = GenerationConfig(sampler=DdpmSampler(steps=4), temperature=0.8, max_text_tokens=6, batch_size=5)
    first, second = (Engine(engines, config, 7, Runtime()).generate(many) for _ in range(2))
    assert max(distance(*pair) for pair in zip(first, second, strict=True)) == 0


@pytest.mark.parametrize("batched", [False, True])
def test_cache_segments_one_by_one_and_batched_are_the_same(
    engines: Any, trained: Any, batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = CachedAttention.build

    def forced(*args: Any) -> CachedAttention:
        attention = build(*args)
        alike = len({segment.count for segment in attention.segments}) == 1
        return replace(attention, batched=batched and alike)

    monkeypatch.setattr(CachedAttention, "build", staticmethod(forced))
    config = GenerationConfig(sampler=DdimSampler(steps=5), guidance=3.0, max_text_tokens=6)
    assert far(engines, trained, config) < TOLERANCE


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, TOLERANCE), (torch.bfloat16, 0.05)], ids=str)
def test_a_model_optimized_for_inference_generates_the_same(trained: Any, dtype: torch.dtype, bound: float) -> None:
    """In bf16 up to its rounding: by the median of the prompts, since guided steps lead to another image for a few."""
    config = GenerationConfig(sampler=DdimSampler(steps=STEPS), guidance=2.0, max_text_tokens=6)
    found, expected = (
        Engine(parts, config, 7, Runtime()).generate(prompts()) for parts in (optimized(trained, dtype), trained)
    )
    apart = sorted(distance(*pair) for pair in zip(found, expected, strict=True))
    assert 0 < apart[len(apart) // 2] < bound
