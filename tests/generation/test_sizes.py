"""Size tokens: what packing writes, and that a model chooses the size that its caption names, or takes the one that is set."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stages.artifacts.latents import Latents
from stages.artifacts.rows import Frames
from stages.artifacts.sequences import RowTable, Sequences
from stages.artifacts.tokens import Tokens
from stages.core.errors import ExitCode, TfcliError
from stages.core.runtime import Runtime
from stages.diffusion.process import Diffusion
from stages.diffusion.samplers import DdimSampler
from stages.diffusion.schedules import CosineSchedule
from stages.diffusion.weighting import Uniform
from stages.generation.config import GenerationConfig
from stages.generation.engine import Engine
from stages.generation.loading import LoadedModel
from stages.generation.prompts import ImageEdit, ImagePiece, Output, Prompt, TextPiece
from stages.generation.reference import Reference
from stages.model.config import ModelConfig
from stages.model.transformer import ModelDims, Transfusion
from stages.pack_sequences.check import check_rows
from stages.pack_sequences.config import PackConfig
from stages.preview.rows import read_rows
from stages.train_model.batches import BatchMaker
from stages.train_model.objective import loss_sums
from tests.builders import Story, make_all

SQUARE, WIDE = (4, 4), (4, 8)
STORIES = [
    *[Story((f"square {number}", None)) for number in range(16)],
    *[Story((f"wide {number}", None), wide=True) for number in range(16)],
    *[Story((f"square {number}", None, " and again", None), fixed_order=True) for number in range(4)],
]
PACK = PackConfig(row_length=64, size_tokens=True, condition_dropout=0.2, heldout_fraction=0.05)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    return Sequences.open(make_all(tmp_path_factory.mktemp("work"), STORIES, PACK))


@pytest.fixture(scope="module")
def loaded(sequences: Sequences) -> Any:
    """A tiny model, trained until it knows which caption belongs to which size."""
    content = sequences.content
    network = Transfusion(ModelConfig(width=32, layers=2, heads=2), ModelDims(content.vocab_size, 2, 2))
    network.initialise(torch.Generator().manual_seed(0))
    latents = Latents.open(sequences.latents_folder())
    maker = BatchMaker(
        sequences.split("train"),
        content,
        (latents.rows(0), latents.rows(1)),
        Diffusion(CosineSchedule()),
        noise_limit=500,
        weighting=Uniform(),
        bidirectional=True,
        clean_context=False,
    )
    rows = np.arange(content.num_rows)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for step in range(40):
        batch = maker.make(rows, [(step, int(row)) for row in rows], 3)
        sums = loss_sums(network, batch)
        optimizer.zero_grad()
        (sums.text / len(batch.targets) + sums.weighted_image / batch.num_images).backward()
        optimizer.step()
    parts = SimpleNamespace(
        model=network.eval().double(),  # in float32 rounding grows through guided steps to 1e-2
        text=Tokens.open(sequences.tokens_folder()).text_coder(),
        device=torch.device("cpu"),
        latent_shape=(2, *SQUARE),
        size_ids=content.size_ids(),
        checkpoint=SimpleNamespace(content=SimpleNamespace(patch_side=2, latent_limit=4.0, row_length=1000)),
        latents=SimpleNamespace(content=SimpleNamespace(downsampling=4)),
        diffusion=Diffusion(CosineSchedule()),
    )
    parts.latent_size = lambda height, width: LoadedModel.latent_size(parts, height, width)
    return parts


def generated(loaded: Any, prompts: list[Prompt], **options: Any) -> list[Output]:
    """The engine's outputs in float64, checked against the whole sequence without a cache."""
    torch.set_default_dtype(torch.float64)
    try:
        return _generated(loaded, prompts, **options)
    finally:
        torch.set_default_dtype(torch.float32)


def _generated(loaded: Any, prompts: list[Prompt], **options: Any) -> list[Output]:
    config = GenerationConfig(sampler=DdimSampler(steps=3), guidance=2.0, max_text_tokens=8, **options)
    found = Engine(loaded, config, 7, Runtime()).generate(prompts)
    if config.height is None:
        for index, (prompt, output) in enumerate(zip(prompts, found, strict=True)):
            expected = Reference(loaded, config, 7).generate(prompt, index)
            assert (output.ended, len(output.pieces)) == (expected.ended, len(expected.pieces))
            for one, other in zip(output.pieces, expected.pieces, strict=True):
                if isinstance(one, ImagePiece):
                    assert isinstance(other, ImagePiece)
                    assert torch.allclose(one.latent, other.latent, atol=1e-8)
                else:
                    assert one == other
    return found


def sizes(output: Output) -> list[tuple[int, ...]]:
    return [tuple(piece.latent.shape[1:]) for piece in output.pieces if isinstance(piece, ImagePiece)]


def sized_prompts(**options: Any) -> list[Prompt]:
    texts = [f"{shape} {number}" for number in range(0, 16, 5) for shape in ("square", "wide")]
    return [Prompt((TextPiece(text),), image_next=True, **options) for text in texts]


def test_the_size_of_each_image_precedes_its_boi(sequences: Sequences) -> None:
    content = sequences.content
    tokens = Tokens.open(sequences.tokens_folder()).content
    assert content.size_ids() == {SQUARE: tokens.vocab_size, WIDE: tokens.vocab_size + 1}
    assert content.vocab_size == tokens.vocab_size + 2
    table = sequences.split("train")
    before = table.ids[table.images[:, 0], table.images[:, 1] - 2]
    assert (before == tokens.vocab_size + table.images[:, 4]).all()
    assert set(table.images[:, 4].tolist()) == {0, 1}
    assert (table.ids >= tokens.vocab_size).sum() == len(table.images)
    assert (table.documents[:, 4] == 1).any()  # a dropped caption leaves the size
    spans = [span.kind for row in read_rows(sequences, "train", range(3)) for d in row.documents for span in d.spans]
    assert "size" in spans
    assert all(after == "boi" for kind, after in pairwise(spans) if kind == "size")


@pytest.mark.parametrize("damage", ["other size", "no size", "a size too many"])
def test_a_row_with_a_wrong_size_is_refused(sequences: Sequences, damage: str) -> None:
    content, table = sequences.content, sequences.split("train")
    frames = Frames(np.array([4, 8]), np.array(list(content.size_ids().values())))
    special_tokens = Tokens.open(sequences.tokens_folder()).content
    check_rows(table, special_tokens, frames)
    ids = np.array(table.ids)
    row, first = table.images[0, 0], table.images[0, 1]
    index, value = {
        "other size": ((row, first - 2), 2 * special_tokens.vocab_size + 1 - ids[row, first - 2]),
        "no size": ((row, first - 2), 20),
        "a size too many": ((row, first), special_tokens.vocab_size),
    }[damage]
    ids[index] = value
    damaged = RowTable(ids, table.documents, table.images, table.row_documents, table.row_images)
    with pytest.raises(TfcliError, match="size"):
        check_rows(damaged, special_tokens, frames)


def test_the_model_chooses_the_size_that_the_caption_names(loaded: Any) -> None:
    found = [sizes(output) for output in generated(loaded, sized_prompts())]
    assert found == [[SQUARE], [WIDE]] * 4
    assert [sizes(output) for output in generated(loaded, sized_prompts(), batch_size=3)] == found


def test_a_size_of_the_prompt_or_the_settings_is_used(loaded: Any) -> None:
    assert [sizes(output) for output in generated(loaded, sized_prompts(size=WIDE))] == [[WIDE]] * 8
    assert [sizes(output) for output in generated(loaded, sized_prompts(), height=16, width=16)] == [[SQUARE]] * 8
    start = torch.randn(2, *WIDE, generator=torch.Generator().manual_seed(0)).double()
    edits = [
        sizes(output) for output in generated(loaded, sized_prompts(edit=ImageEdit(start, strength=0.5), size=SQUARE))
    ]
    assert edits == [[WIDE]] * 8


def test_without_a_prompt_it_writes_a_caption_and_uses_its_size(loaded: Any) -> None:
    config = {"temperature": 0.7, "max_images": 2}
    found = generated(loaded, [Prompt(max_images=2) for _ in range(12)], **config)
    num_images = 0
    for output in found:
        for before, piece in pairwise(output.pieces):
            if isinstance(before, TextPiece) and isinstance(piece, ImagePiece) and before.text.startswith(("sq", "wi")):
                assert sizes(Output([piece])) == [SQUARE if before.text.startswith("sq") else WIDE]
                num_images += 1
    assert num_images > 2


def test_images_of_the_prompt_get_their_size_tokens(loaded: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    pictures = [ImagePiece(torch.randn(2, *size, generator=generator).double()) for size in (SQUARE, WIDE)]
    prompts = [
        Prompt((TextPiece("square 3"), picture, TextPiece(" and again")), image_next=True) for picture in pictures
    ]
    assert all(len(sizes(output)) == 1 for output in generated(loaded, prompts, image_guidance=1.5))


@pytest.mark.parametrize(("height", "width", "words"), [(16, 20, "multiples of 8"), (32, 16, "16x16, 32x16")])
def test_sizes_that_cannot_be_generated_are_refused(loaded: Any, height: int, width: int, words: str) -> None:
    with pytest.raises(TfcliError) as raised:
        Engine(loaded, GenerationConfig(height=height, width=width), 7, Runtime())
    assert raised.value.code == ExitCode.USAGE
    assert words in f"{raised.value.what} {raised.value.fix}"
    with pytest.raises(ValueError, match="set both"):
        GenerationConfig(height=16)
    strange = ImagePiece(torch.zeros(2, 8, 8))
    with pytest.raises(TfcliError, match="no size token"):
        generated(loaded, [Prompt((strange,), max_images=0)])


def test_without_size_tokens_nothing_changes(tmp_path: Path) -> None:
    plain = Sequences.open(make_all(tmp_path, STORIES, PACK.model_copy(update={"size_tokens": False})))
    assert plain.content.size_ids() == {}
    assert plain.content.vocab_size == Tokens.open(plain.tokens_folder()).content.vocab_size
    table = plain.split("train")
    assert (table.ids[table.images[:, 0], table.images[:, 1] - 1] == plain.content.boi).all()
