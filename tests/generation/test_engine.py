"""The cached, batched decode loop against the whole sequence run again at every step, on models with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, zip_longest
from typing import Any

import pytest
import torch

from stages.core.runtime import Runtime
from stages.diffusion.process import Diffusion
from stages.diffusion.samplers import DdimSampler, DdpmSampler, Sampler
from stages.diffusion.schedules import CosineSchedule
from stages.diffusion.targets import NoiseTarget, Target, VelocityTarget
from stages.generation import engine as engine_module
from stages.generation.config import GenerationConfig
from stages.generation.engine import Engine
from stages.generation.kv_cache import KeyValueCache
from stages.generation.prompts import (
    Denoised,
    Ended,
    ImageDone,
    ImageEdit,
    ImagePiece,
    ImageStarted,
    Output,
    Prompt,
    TextPiece,
    collect,
)
from stages.generation.reference import Reference
from stages.model.config import ModelConfig, UNetCodec
from stages.model.transformer import ModelDims, Transfusion
from tests.generation.trained import BOI, parts_of


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """In float32 rounding grows through guided steps of a random network to 5e-3; in float64 it cannot hide a fault."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def loaded(seed: int = 0, *, images_often: bool = True, target: Target | None = None, **options: Any) -> Any:
    model = Transfusion(ModelConfig(width=32, layers=3, heads=2, **options), ModelDims(31, 2, 2)).eval()
    model.initialise(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        # Stronger attention than at the start of training, so that a wrong key would show; BOI is made likely.
        for block in model.blocks:
            block.attention_out.weight.mul_(4)
            block.qkv.weight.mul_(2)
        if images_often:
            model.text_head.weight[BOI] *= 2.5
    return parts_of(model, Diffusion(CosineSchedule(), target))


def prompts() -> list[Prompt]:
    pictures = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(5))
    return [
        Prompt((TextPiece("abc"),), image_next=True),
        Prompt((), max_images=2),
        Prompt((ImagePiece(pictures[0]),), max_images=0),
        Prompt((TextPiece("hello"), ImagePiece(pictures[0]), TextPiece("then"), ImagePiece(pictures[1])), max_images=2),
        Prompt((TextPiece("zz"),), image_next=True, max_images=2),
    ]


def assert_same(found: Output, expected: Output) -> None:
    assert found.ended == expected.ended
    assert [type(piece) for piece in found.pieces] == [type(piece) for piece in expected.pieces]
    for one, other in zip(found.pieces, expected.pieces, strict=True):
        if isinstance(one, TextPiece):
            assert one == other
        else:
            assert isinstance(other, ImagePiece)
            assert torch.allclose(one.latent, other.latent, atol=1e-6)  # an error of the cache is of the order of 1


@pytest.mark.parametrize("target", [NoiseTarget(), VelocityTarget()], ids=str)
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("sampler", [DdimSampler(steps=4), DdpmSampler(steps=5)], ids=str)
def test_kv_cache_and_batches_equal_the_whole_sequence_run_again(
    guidance: float, sampler: Sampler, target: Target
) -> None:
    config = GenerationConfig(sampler=sampler, guidance=guidance, max_text_tokens=6)
    text_after_image = 0
    for seed in range(4):
        parts = loaded(seed, target=target)
        found = Engine(parts, config, 7, Runtime()).generate(prompts())
        for index, (prompt, output) in enumerate(zip(prompts(), found, strict=True)):
            assert_same(output, Reference(parts, config, 7).generate(prompt, index))
            kinds = [type(piece) for piece in output.pieces]
            text_after_image += any(a is ImagePiece and b is TextPiece for a, b in pairwise(kinds))
    assert text_after_image > 0


@pytest.mark.parametrize(
    "options",
    [
        {"codec": UNetCodec(channels=8, widest=16)},
        {"image_positions": "grid", "qk_norm": True},
        {"image_attention": "causal"},
    ],
    ids=["unet", "grid positions and query-key norm", "causal inside images"],
)
def test_kv_cache_equals_the_whole_sequence_for_other_models(options: dict[str, Any]) -> None:
    config = GenerationConfig(sampler=DdimSampler(steps=4), guidance=2.5, max_text_tokens=6)
    parts = loaded(1, **options)
    found = Engine(parts, config, 7, Runtime()).generate(prompts())
    for index, (prompt, output) in enumerate(zip(prompts(), found, strict=True)):
        assert_same(output, Reference(parts, config, 7).generate(prompt, index))
    assert any(isinstance(piece, ImagePiece) for output in found for piece in output.pieces)


GUIDED: list[dict[str, Any]] = [
    {"guidance": 3.0, "image_guidance": 1.5},
    {"guidance": 2.0, "image_guidance": 1.0},
    {"guidance": 1.0, "image_guidance": 2.0, "guidance_rescale": 0.7},
    {"guidance": 2.5, "guidance_interval": (0.3, 0.8), "guidance_rescale": 0.5},
]


def several() -> list[Prompt]:
    """Documents with and without images, negative text, edits of another size: all in one batch."""
    generator = torch.Generator().manual_seed(9)
    wide, square = (torch.randn(2, *size, generator=generator) for size in ((2, 6), (4, 4)))
    half = torch.zeros(4, 4, dtype=torch.bool)
    half[:, :2] = True
    read = (TextPiece("ab"), ImagePiece(square), TextPiece("c"))
    return [
        *prompts(),
        Prompt(read, image_next=True, max_images=2, negative="dd"),
        Prompt(read, image_next=True, edit=ImageEdit(square, half)),
        Prompt((TextPiece("a"),), image_next=True, edit=ImageEdit(square, half, strength=0.5), negative="e"),
        Prompt((TextPiece("a"),), image_next=True, max_images=2, edit=ImageEdit(wide, strength=0.5)),
        Prompt(read, image_next=True, edit=ImageEdit(square, strength=0.0)),
    ]


@pytest.mark.parametrize("options", GUIDED, ids=str)
def test_guidance_branches_intervals_and_edits_in_one_batch_equal_each_alone_without_a_cache(
    options: dict[str, Any],
) -> None:
    parts = loaded(2)
    config = GenerationConfig(sampler=DdimSampler(steps=5), max_text_tokens=5, batch_size=6, **options)
    found = Engine(parts, config, 7, Runtime()).generate(several())
    for index, (prompt, output) in enumerate(zip(several(), found, strict=True)):
        assert_same(output, Reference(parts, config, 7).generate(prompt, index))
    images = [[piece.latent for piece in output.pieces if isinstance(piece, ImagePiece)] for output in found]
    assert len(images[5]) == 2  # the branch "images" reads the first of them
    edits = [prompt.edit for prompt in several()]
    assert torch.equal(images[6][0][:, :, 2:], edits[6].latent[:, :, 2:])  # type: ignore[union-attr]
    assert not torch.allclose(images[6][0][:, :, :2], edits[6].latent[:, :, :2], atol=0.1)  # type: ignore[union-attr]
    assert torch.equal(images[9][0], edits[9].latent)  # type: ignore[union-attr]
    plain = config.model_copy(update={"image_guidance": None, "guidance_interval": (0.0, 1.0), "guidance_rescale": 0.0})
    other = Engine(parts, plain, 7, Runtime()).generate(several())
    assert not torch.allclose(images[5][0], other[5].pieces[0].latent, atol=0.05)  # type: ignore[union-attr]


def test_stop_strings_of_the_settings_and_of_the_prompt_end_a_document() -> None:
    parts = loaded(2, images_often=False)
    config = GenerationConfig(max_text_tokens=12, guidance=1.0)
    (plain,) = Engine(parts, config, 7, Runtime()).generate([Prompt(max_images=0)])
    text = plain.pieces[0].text  # type: ignore[union-attr]
    assert len(text) >= 4
    stopping = config.model_copy(update={"stop": (text[2:4],)})
    one, two = Engine(parts, stopping, 7, Runtime()).generate(
        [Prompt(max_images=0), Prompt(max_images=0, stop=(text[1],))]
    )
    expected = [
        text[: min(index for stop in stops if (index := text.find(stop)) >= 0)]
        for stops in ((text[2:4],), (text[2:4], text[1]))
    ]
    assert ["".join(piece.text for piece in output.pieces) for output in (one, two)] == expected  # type: ignore[union-attr]
    assert (one.ended, two.ended) == ("stop", "stop")


def test_a_penalty_counts_the_text_of_the_prompt_and_what_was_written() -> None:
    parts = loaded(2, images_often=False)
    config = GenerationConfig(max_text_tokens=16, guidance=1.0, repetition_penalty=1e6)
    (output,) = Engine(parts, config, 7, Runtime()).generate([Prompt((TextPiece("abc"),), max_images=0)])
    text = "abc" + "".join(piece.text for piece in output.pieces)  # type: ignore[union-attr]
    assert len(text) > 8
    assert len(set(text)) == len(text)


def test_neighbours_and_batch_size_change_nothing() -> None:
    parts = loaded()
    together = Engine(parts, GenerationConfig(sampler=DdimSampler(steps=4), max_text_tokens=6), 7, Runtime()).generate(
        prompts()
    )
    config = GenerationConfig(sampler=DdimSampler(steps=4), max_text_tokens=6, batch_size=2)
    for found, expected in zip(Engine(parts, config, 7, Runtime()).generate(prompts()), together, strict=True):
        assert_same(found, expected)


def test_prompts_may_hold_images_of_other_sizes() -> None:
    """Together in one batch and in one document: the outputs are those of each alone."""
    generator = torch.Generator().manual_seed(6)
    wide, tall, square = (torch.randn(2, *size, generator=generator) for size in ((2, 6), (6, 4), (4, 4)))
    batch = [
        Prompt((ImagePiece(wide), TextPiece("ab")), image_next=True),
        Prompt((ImagePiece(tall), TextPiece("c"), ImagePiece(wide)), image_next=True),
        Prompt((ImagePiece(square),), max_images=0),
    ]
    parts, config = loaded(), GenerationConfig(sampler=DdimSampler(steps=3), max_text_tokens=6)
    together = Engine(parts, config, 7, Runtime()).generate(batch)
    for index, prompt in enumerate(batch):
        assert_same(Engine(parts, config, 7, Runtime()).generate([prompt], [index])[0], together[index])


def test_sampled_text_depends_on_prompt_number_and_seed_alone() -> None:
    parts = loaded(images_often=False)
    config = GenerationConfig(sampler=DdimSampler(steps=2), temperature=1.0, max_text_tokens=12, guidance=1.0)
    many = [Prompt(max_images=0) for _ in range(5)]
    first = Engine(parts, config, 7, Runtime()).generate(many)
    alone = Engine(parts, config, 7, Runtime()).generate(many[3:4], numbers=[3])
    other = Engine(parts, config, 8, Runtime()).generate(many)
    texts = [[piece.text for piece in output.pieces if isinstance(piece, TextPiece)] for output in first]
    assert texts[3] == [piece.text for piece in alone[0].pieces if isinstance(piece, TextPiece)]
    assert len({str(text) for text in texts}) > 1
    assert texts != [[piece.text for piece in output.pieces if isinstance(piece, TextPiece)] for output in other]


def test_the_events_of_a_stream_add_up_to_the_outputs() -> None:
    parts, config = loaded(), GenerationConfig(sampler=DdimSampler(steps=4), max_text_tokens=6)
    engine = Engine(parts, config, 7, Runtime())
    events = list(engine.stream(prompts(), steps=True))
    found = collect(events)
    for index, expected in enumerate(engine.generate(prompts())):
        assert_same(found[index], expected)
    images = [event for event in events if isinstance(event, ImageDone)]
    assert images
    for done in images:
        of_image = [
            event for event in events if (event.prompt, getattr(event, "number", -1)) == (done.prompt, done.number)
        ]
        assert [type(event) for event in of_image] == [ImageStarted, *[Denoised] * 4, ImageDone]
        assert torch.equal(of_image[-2].estimate, done.image.latent)
    assert max(event.estimate.abs().max() for event in events if isinstance(event, Denoised)) <= 4
    last = {event.prompt: event for event in events}
    assert sorted(last) == list(range(len(prompts())))
    assert all(isinstance(event, Ended) for event in last.values())


def test_two_streams_of_one_engine_do_not_touch() -> None:
    """Each has a cache of its own: interleaved event by event they give what each gives alone, with and without step events."""
    engine = Engine(loaded(), GenerationConfig(sampler=DdimSampler(steps=4), max_text_tokens=6), 7, Runtime())
    batches = [prompts(), prompts()[::-1]]
    alone = [engine.generate(batch) for batch in batches]
    streams = [engine.stream(batch, steps=steps) for batch, steps in zip(batches, (True, False), strict=True)]
    events: list[list[Any]] = [[], []]
    for pair in zip_longest(*streams):
        for number, event in enumerate(pair):
            if event is not None:
                events[number].append(event)
    for number in range(2):
        found = collect(events[number])
        for index, expected in enumerate(alone[number]):
            assert_same(found[index], expected)
        assert any(isinstance(event, Denoised) for event in events[number]) == (number == 0)


def test_reported_estimates_are_within_the_limit_and_keep_the_known_part() -> None:
    engine = Engine(
        loaded(2), GenerationConfig(sampler=DdimSampler(steps=4), max_text_tokens=4, guidance=9.0), 7, Runtime()
    )
    masked = {
        number: prompt.edit
        for number, prompt in enumerate(several())
        if prompt.edit and prompt.edit.change_hw is not None
    }
    known = free = 0
    for event in engine.stream(several(), steps=True):
        if isinstance(event, Denoised):
            assert event.estimate.abs().max() <= 4
        if isinstance(event, Denoised) and event.prompt in masked and event.number == 0:
            edit = masked[event.prompt]
            assert edit.change_hw is not None
            assert torch.equal(event.estimate[:, ~edit.change_hw], edit.latent[:, ~edit.change_hw])
            known += 1
            free += not torch.equal(event.estimate, edit.latent)
    assert known == free == 4 + 2


@pytest.mark.parametrize("size_tokens", [False, True])
def test_no_document_is_longer_than_the_rows_of_the_training(
    size_tokens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every row length, against the reference without a cache; a longer row changes only the end."""
    sizes = {(4, 4): 26, (2, 6): 27} if size_tokens else {}
    parts = loaded(2)
    parts.size_ids = sizes
    with torch.no_grad():
        parts.model.text_head.weight[list(sizes.values())] *= 2.5
    config = GenerationConfig(sampler=DdimSampler(steps=2), max_text_tokens=5, batch_size=4)
    reserve, row_length = KeyValueCache.reserve, 0

    def checked(cache: KeyValueCache, length: int) -> None:
        assert length <= row_length
        reserve(cache, length)

    monkeypatch.setattr(KeyValueCache, "reserve", checked)
    batch = [*several(), Prompt((TextPiece("a"),), image_next=True, negative="abcdefghijklmnop"), Prompt(max_images=0)]
    ends: list[str] = []
    for row_length in (1, 2, 4, 7, 8, 9, *range(10, 48, 4)):
        parts.checkpoint.content.row_length = row_length
        found = Engine(parts, config, 7, Runtime()).generate(batch)
        for index, (prompt, output) in enumerate(zip(batch, found, strict=True)):
            assert_same(output, Reference(parts, config, 7).generate(prompt, index))
            written = sum(len(piece.text) for piece in output.pieces if isinstance(piece, TextPiece))
            assert written == 0 or written + 1 <= row_length
        ends += [output.ended for output in found]
        if row_length == 1:
            assert {output.ended for output in found[:1]} == {"length"}
    assert set(ends) >= {"length", "drawn", "text"}
    lengths = [number for number, end in enumerate(ends) if end == "length"]
    assert len(lengths) > len(batch)
    assert "length" not in ends[-len(batch) :][:3]


def test_a_required_image_and_a_limit_end_differently() -> None:
    config = GenerationConfig(sampler=DdimSampler(steps=2), max_text_tokens=6)
    ends: dict[int, set[str]] = {}
    for seed in range(4):
        engine = Engine(loaded(seed), config, 7, Runtime())
        for limit in (0, 1, 2):
            outputs = engine.generate([Prompt((TextPiece(letter),), max_images=limit) for letter in "abcd"])
            ends.setdefault(limit, set()).update(output.ended for output in outputs)
            images = [sum(isinstance(piece, ImagePiece) for piece in output.pieces) for output in outputs]
            assert max(images) <= limit
        (output,) = engine.generate([Prompt((TextPiece("a"),), image_next=True)])
        assert output.ended == "drawn"
    assert ends[0] <= {"eos", "text"}  # where no image may come it writes text, however likely BOI is
    assert "images" in ends[1]
    assert "drawn" not in ends[1] | ends[2]


def test_a_kv_cache_that_grows_keeps_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without spare capacity it grows within documents; the outputs are those without a cache."""
    monkeypatch.setattr(engine_module, "_SPARE_CAPACITY", 0)
    reserve, grown = KeyValueCache.reserve, 0

    def counted(cache: KeyValueCache, length: int) -> None:
        nonlocal grown
        grown += length > cache.capacity and max(cache.lengths) > 0
        reserve(cache, length)

    monkeypatch.setattr(KeyValueCache, "reserve", counted)
    parts = loaded(2)
    config = GenerationConfig(sampler=DdimSampler(steps=3), guidance=2.0, max_text_tokens=20)
    batch = [Prompt((TextPiece("a"),), max_images=3), Prompt((), max_images=2)]
    found = Engine(parts, config, 7, Runtime()).generate(batch)
    for index, (prompt, output) in enumerate(zip(batch, found, strict=True)):
        assert_same(output, Reference(parts, config, 7).generate(prompt, index))
    assert grown > 0
