"""The times of training images: strata of a row, and which images the noise limit holds for, read from the rows themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from stages.artifacts.sequences import Sequences
from stages.core.config import result_config
from stages.diffusion.config import DiffusionConfig
from stages.diffusion.timesteps import LogitNormalTimesteps, TimestepDistribution, UniformTimesteps
from stages.model.config import ModelConfig
from stages.model.transformer import Transfusion
from stages.pack_sequences.config import PackConfig
from stages.train_model.batches import Batch
from stages.train_model.checkpointing import TrainState
from stages.train_model.config import TrainConfig
from stages.train_model.data import Data
from stages.train_model.distributed.ranks import Ranks
from stages.train_model.heldout import heldout_losses
from tests.builders import Story, make_all

MODEL = ModelConfig(width=32, layers=1, heads=2)
STORIES = [
    *[Story((f"a pair {number}", None)) for number in range(16)],
    *[Story((f"a wide one {number}", None), wide=True) for number in range(16)],
    *[Story(("first ", None, "then ", None, f"end {number}"), fixed_order=True) for number in range(5)],
    *[Story((None, None, f"made blue {number}", None), fixed_order=True, wide=number % 2 == 0) for number in range(6)],
    *[Story((None,), fixed_order=True) for _ in range(3)],
    # too long for a row: they end with a piece of text, or right after an image, without EOS
    *[Story(("x" * number, *[None] * 14), fixed_order=True) for number in range(1, 9)],
    *[Story((*[None] * 10, "x y z " * number), fixed_order=True) for number in range(1, 9)],
    *[Story(("x y", *[None] * 10, "x y z " * number), fixed_order=True) for number in range(1, 9)],
]
PACK = PackConfig(row_length=64, condition_dropout=0.3, heldout_fraction=0.1, too_long_documents="truncate")


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    return Sequences.open(make_all(tmp_path_factory.mktemp("work"), STORIES, PACK))


@cache
def data_of(folder: Path, diffusion: DiffusionConfig) -> Data:
    return Data(folder, diffusion, MODEL)


def batch_of(sequences: Sequences, step: int = 0, rows: list[int] | None = None, **diffusion: Any) -> Batch:
    """Rows of the training side, all of them without `rows`, with the draws of a step."""
    data = data_of(sequences.folder, DiffusionConfig(**diffusion))
    chosen = np.arange(sequences.content.num_rows) if rows is None else np.array(rows)
    return data.train.make(chosen, [(step, int(row)) for row in chosen], 3)


@dataclass(frozen=True)
class Image:
    """An image of a batch: its row, the t of each draw, and how it stands in its document. after: elements after its EOI, without
    EOS."""

    row: int
    t_K: list[int]
    begins: bool
    after: int
    has_eos: bool


def images_of(sequences: Sequences, batch: Batch, draws: int = 1) -> list[Image]:
    """The images of all rows, from the tables."""
    table, content = sequences.split("train"), sequences.content
    times: dict[int, list[list[int]]] = {}
    for grid, image in enumerate(batch.inputs.images):
        times[grid] = image.t_I.view(draws, -1).T.tolist()
    found = []
    for row, start, patches, _, grid, owner in table.images.tolist():
        _, first, length, _, dropped, _ = table.documents[owner].tolist()
        ids = table.ids[row, first : first + length].tolist()
        eoi = start - first + patches
        assert ids[eoi] == content.eoi
        rest = [each for each in ids[eoi + 1 :] if each != content.eos]
        begins = set(ids[: start - first]) <= {content.bos, content.boi} and not dropped
        found.append(Image(row, times[grid].pop(0), begins, len(rest), ids[-1] == content.eos))
    assert not any(times.values())
    return found


def test_the_images_of_a_row_and_their_draws_cover_the_times_evenly(sequences: Sequences) -> None:
    """Of n times that are limited alike, the i-th of them in order is in the i-th of n equal ranges; and the K of an image are in
    different K-ths."""
    draws, several = 4, 0  # divides both limits
    for step in range(6):
        batch = batch_of(sequences, step, noise_draws=draws, stratified_times=True, noise_limit=500)
        groups: dict[tuple[int, bool], list[list[int]]] = {}
        for image in images_of(sequences, batch, draws):
            groups.setdefault((image.row, image.begins), []).append(image.t_K)
        for (_, limited), times in groups.items():
            limit = 500 if limited else 1000
            in_order = np.sort(np.concatenate(times))
            edges = np.arange(len(in_order)) / len(in_order) * limit
            assert (in_order > edges - 1e-6).all()
            assert (in_order <= edges + limit / len(in_order) + 1).all()
            for own in times:
                assert sorted(int((t - 1) * draws / limit) for t in own) == list(range(draws))
            several += len(times) > 1
    assert several > 20


def test_a_single_stratified_time_is_distributed_as_any(sequences: Sequences) -> None:
    """Whichever image of a row, and whichever draw of it: nothing but the order of the strata is random."""
    found = [
        image.t_I.view(2, -1)
        for step in range(150)
        for image in batch_of(
            sequences, step, rows=[0, 1], noise_draws=2, stratified_times=True, noise_limit=1000
        ).inputs.images[:1]
    ]
    t_SKI = torch.stack(found).double()
    assert t_SKI.shape[2] > 3
    assert t_SKI.mean(0).flatten().tolist() == pytest.approx([500.5] * t_SKI[0].numel(), abs=5 * 289 / 150**0.5)
    assert t_SKI.std(0).flatten().tolist() == pytest.approx([289] * t_SKI[0].numel(), abs=60)


def test_strata_change_the_times_alone_and_depend_on_the_row_alone(sequences: Sequences) -> None:
    plain, strata = (batch_of(sequences, noise_draws=2, stratified_times=each) for each in (False, True))
    for one, other in zip(plain.images, strata.images, strict=True):
        assert torch.equal(one.target_IChw, other.target_IChw)  # the noise
    assert any(
        not torch.equal(one.t_I, other.t_I)
        for one, other in zip(plain.inputs.images, strata.inputs.images, strict=True)
    )
    whole = images_of(sequences, strata, 2)
    for row in range(sequences.content.num_rows):
        alone = batch_of(sequences, rows=[row], noise_draws=2, stratified_times=True)
        times = sorted(t for image in alone.inputs.images for t in image.t_I.tolist())
        assert times == sorted(t for image in whole if image.row == row for t in image.t_K)


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("context", ["noised", "clean"])
@pytest.mark.parametrize("limited", ["first", "read"])
def test_the_limit_holds_for_the_images_that_the_key_names(
    sequences: Sequences, limited: Literal["first", "read"], context: str, draws: int
) -> None:
    """ "read": for those that text or another image comes after, where that sees their noised patches; it sees the first draw."""
    seen: dict[tuple[bool, bool, bool, bool], list[int]] = {}
    cases: Counter[tuple[int, bool]] = Counter()
    for step in range(12):
        options = {"noise_limit": 200, "noise_draws": draws, "limited_images": limited, "context_images": context}
        for image in images_of(sequences, batch_of(sequences, step, **options), draws):
            cases[image.after, image.has_eos] += 1
            for draw, t in enumerate(image.t_K):
                is_limited = image.begins
                if limited == "read":
                    is_limited = context == "noised" and image.after > 0 and draw == 0
                seen.setdefault((is_limited, image.begins, image.after > 0, draw == 0), []).append(t)
    for (is_limited, *_), times in seen.items():
        assert len(times) > 20
        assert (150 < max(times) <= 200) if is_limited else max(times) > 800
    assert set(cases) >= {(0, True), (0, False), (1, False)}
    assert any(is_limited for is_limited, *_ in seen) == (limited == "first" or context == "noised")


@pytest.mark.parametrize("context", ["noised", "clean"])
def test_which_images_are_limited_changes_their_times_alone(sequences: Sequences, context: str) -> None:
    first, read = (batch_of(sequences, context_images=context, limited_images=each) for each in ("first", "read"))
    assert first.num_context == read.num_context
    assert first.num_images == read.num_images
    assert torch.equal(first.loss_index, read.loss_index)
    for one, other in zip(first.images, read.images, strict=True):
        assert torch.equal(one.target_IChw, other.target_IChw)


def test_heldout_losses_are_measured_at_times_without_strata(sequences: Sequences) -> None:
    found = []
    for stratified in (False, True):
        data = Data(sequences.folder, DiffusionConfig(stratified_times=stratified), MODEL)
        network = Transfusion(MODEL, data.dims)
        network.initialise(torch.Generator().manual_seed(0))
        state = TrainState(network, [], {}, ranks=Ranks())
        found.append(heldout_losses(state, data, TrainConfig(steps=1, batch_rows=2, eval_rows=3), 5))
    assert found[0] == found[1]


def test_recipes_without_the_keys_keep_their_fingerprint() -> None:
    plain = result_config(DiffusionConfig())
    assert not {"stratified_times", "limited_images"} & set(plain)
    config = DiffusionConfig.model_validate(plain)
    assert (config.stratified_times, config.limited_images) == (False, "first")
    changed = result_config(DiffusionConfig(stratified_times=True, limited_images="read"))
    assert changed == plain | {"stratified_times": True, "limited_images": "read"}


def test_a_limit_of_zero_is_of_first_images_alone() -> None:
    with pytest.raises(ValueError, match=r'noise_limit 0 gives the image .* limited_images "first"'):
        DiffusionConfig(noise_limit=0, limited_images="read")


@pytest.mark.parametrize(
    "times", [UniformTimesteps(), LogitNormalTimesteps(mean=0.8, deviation=0.7, base_pixels=8)], ids=lambda t: t.kind
)
def test_stratified_times_are_of_the_distribution_of_the_recipe(
    sequences: Sequences, times: TimestepDistribution
) -> None:
    """Moved by the size of each image too."""
    options = {"times": times, "stratified_times": True, "noise_limit": 1000, "noise_draws": 4}
    drawn = [batch_of(sequences, step, **options).inputs.images for step in range(8)]
    means = [torch.cat([images[grid].t_I for images in drawn]).double().mean().item() for grid in (0, 1)]
    pixels = [image.latents_IChw[0, 0].numel() for image in drawn[0]]
    free = [1000 * times.sample(40_000, each, torch.Generator().manual_seed(0)).mean().item() for each in pixels]
    assert means == pytest.approx(free, abs=8)
    if times.kind == "logit-normal":
        assert free[1] > free[0] + 30
