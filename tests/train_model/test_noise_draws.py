"""Several noise draws of one image in one pass: each is what a batch with that draw alone would have made of it, and nothing else
sees the further ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.artifacts.latents import Latents
from stages.artifacts.sequences import Sequences
from stages.core.config import result_config
from stages.core.seeds import torch_generator
from stages.diffusion.config import DiffusionConfig
from stages.diffusion.process import Diffusion
from stages.diffusion.schedules import CosineSchedule
from stages.diffusion.targets import NoiseTarget
from stages.diffusion.timesteps import LogitNormalTimesteps
from stages.diffusion.weighting import MinSnr
from stages.model.attention import DenseAttention, FlexAttention
from stages.model.config import LinearCodec, ModelConfig, UNetCodec
from stages.model.transformer import ImageInputs, ModelDims, Transfusion
from stages.pack_sequences.config import PackConfig
from stages.train_model.batches import Batch, BatchMaker
from stages.train_model.checkpointing import TrainState
from stages.train_model.config import TrainConfig
from stages.train_model.data import Data
from stages.train_model.distributed.ranks import Ranks
from stages.train_model.flops import Work
from stages.train_model.heldout import heldout_losses
from stages.train_model.images import ImageTruth
from stages.train_model.objective import loss_sums
from tests.builders import Story, make_all

DRAWS = 3
PAIRS = [
    *[Story((f"a pair {number}", None)) for number in range(16)],
    *[Story((f"a wide one {number}", None), wide=True) for number in range(16)],
    *[Story((f"only text {number}",), fixed_order=True) for number in range(4)],
]
LONG = [
    *[Story(("first ", None, "then ", None, f"end {number}"), fixed_order=True) for number in range(5)],
    *[Story((None, f"made blue {number}", None), fixed_order=True, wide=number % 2 == 0) for number in range(6)],
]
PACK = PackConfig(row_length=64, condition_dropout=0.3, caption_first=0.6, heldout_fraction=0.1)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    return Sequences.open(make_all(tmp_path_factory.mktemp("work"), [*PAIRS, *LONG], PACK))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    """No image is after another: read noised, a later image would see another draw in each of the batches with one draw."""
    return Sequences.open(make_all(tmp_path_factory.mktemp("work"), PAIRS, PACK))


def maker(sequences: Sequences, draws: int, context: str = "noised", **options: Any) -> BatchMaker:
    latents = Latents.open(sequences.latents_folder())
    options = {"noise_limit": 500, "bidirectional": True} | options
    return BatchMaker(
        sequences.split("train"),
        sequences.content,
        (latents.rows(0), latents.rows(1)),
        Diffusion(CosineSchedule(), NoiseTarget(), LogitNormalTimesteps(mean=0.5)),
        weighting=MinSnr(gamma=2.0),
        clean_context=context == "clean",
        noise_draws=draws,
        **options,
    )


def batch_of(sequences: Sequences, draws: int, context: str = "noised", **options: Any) -> Batch:
    """All rows of the training side."""
    rows = np.arange(sequences.content.num_rows)
    return maker(sequences, draws, context, **options).make(rows, [(5, int(row)) for row in rows], 3)


def single(batch: Batch, several: Batch, draw: int) -> Batch:
    """A batch with one draw of each image, which is replaced by the draw `draw` of `several`."""
    images, truths = [], []
    for image, found, truth in zip(batch.inputs.images, several.inputs.images, several.images, strict=True):
        count = len(image.t_I)
        own = slice(draw * count, (draw + 1) * count)
        assert len(found.t_I) == DRAWS * count
        images.append(ImageInputs(found.latents_IChw[own], found.t_I[own], image.patch_index_IP))
        truths.append(ImageTruth(truth.target_IChw[own], truth.weights_I[own], truth.eps_mse_factor_I[own]))
    return replace(batch, inputs=replace(batch.inputs, images=tuple(images)), images=tuple(truths))


def model(**options: Any) -> Transfusion:
    network = Transfusion(ModelConfig(width=32, layers=2, heads=2, **options), ModelDims(400, 2, 2))
    network.initialise(torch.Generator().manual_seed(0))
    return network


def gradient(network: Transfusion, loss: Tensor) -> Tensor:
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    loss.backward()  # type: ignore[no-untyped-call]
    return torch.cat([weight.grad.flatten() for weight in network.parameters() if weight.grad is not None])


def normalised(network: Transfusion, batch: Batch) -> tuple[Tensor, Tensor]:
    """The text loss and the trained image loss."""
    sums = loss_sums(network, batch)
    return sums.text / len(batch.targets), sums.weighted_image / batch.num_images


@dataclass(frozen=True)
class Counterparts:
    """For each element of a batch with several draws: the element of the batch with one draw that it stands for (-1: padding, and
    documents without an image), the image and the copy that it belongs to (-1: none), and whether it is a copy that later
    elements read."""

    of: Tensor
    image: Tensor
    copy: Tensor
    is_read: Tensor


def counterparts(one: Batch, several: Batch, context: str) -> Counterparts:
    size = len(several.inputs.positions_N)
    of, image, copy = (torch.full((size,), -1) for _ in range(3))
    is_read = torch.zeros(size, dtype=torch.bool)
    document_of: dict[int, int] = {}
    number = 0
    for own, many in zip(one.inputs.images, several.inputs.images, strict=True):
        for draw, patches in enumerate(many.patch_index_IP.unflatten(0, (DRAWS, -1))):
            of[patches], copy[patches] = own.patch_index_IP, draw
            image[patches] = number + torch.arange(len(patches))[:, None]
            is_read[patches] = context == "noised" and draw == 0
            documents = several.elements.documents_N[patches[:, 0]].tolist()
            document_of |= dict(
                zip(documents, one.elements.documents_N[own.patch_index_IP[:, 0]].tolist(), strict=True)
            )
        number += len(own.t_I)
    for own, many in zip(one.inputs.context, several.inputs.context, strict=True):
        of[many.patch_index_IP], copy[many.patch_index_IP] = own.patch_index_IP, DRAWS
        is_read[many.patch_index_IP] = True
        image[many.patch_index_IP] = number + torch.arange(len(own.t_I))[:, None]
        number += len(own.t_I)
    places = {
        (int(one.elements.documents_N[index]), int(one.inputs.positions_N[index])): int(index)
        for index in one.inputs.text_index_T
    }
    for index in several.inputs.text_index_T.tolist():
        document = document_of.get(int(several.elements.documents_N[index]))
        if document is not None:  # documents without an image are checked by those that have one
            of[index] = places[document, int(several.inputs.positions_N[index])]
    return Counterparts(of, image, copy, is_read)


CONTEXTS = pytest.mark.parametrize("context", ["noised", "clean"])


@pytest.mark.parametrize("codec", [LinearCodec(), UNetCodec(channels=8, widest=16)], ids=["linear", "unet"])
@CONTEXTS
def test_the_gradient_is_the_mean_of_those_of_the_draws_alone(
    sequences: Sequences, pairs: Sequences, context: str, codec: LinearCodec | UNetCodec
) -> None:
    rows = pairs if context == "noised" else sequences
    network = model(codec=codec, image_positions="grid")
    one, several = batch_of(rows, 1, context), batch_of(rows, DRAWS, context)
    assert len(one.inputs.images) == 2  # grids
    found_text = gradient(network, normalised(network, several)[0])
    image = normalised(network, several)[1]
    found_image = gradient(network, image)
    alone = [single(one, several, draw) for draw in range(DRAWS)]
    expected_text = gradient(network, normalised(network, one)[0])
    each = [gradient(network, normalised(network, batch)[1]) for batch in alone]
    expected_image = torch.stack(each).mean(0)
    assert (found_text - expected_text).norm() < 1e-5 * expected_text.norm()
    assert (found_image - expected_image).norm() < 1e-5 * expected_image.norm()
    assert (each[0] - each[1]).norm() > 0.1 * expected_image.norm()
    losses = [normalised(network, batch)[1].item() for batch in alone]
    assert image.item() == pytest.approx(np.mean(losses), rel=1e-5)


@CONTEXTS
@pytest.mark.parametrize("bidirectional", [True, False])
def test_each_draw_sees_what_the_single_one_sees(sequences: Sequences, context: str, bidirectional: bool) -> None:
    """Read off the mask: the same text, earlier images as later elements read them and its own patches; no other draw."""
    one, several = (batch_of(sequences, draws, context, bidirectional=bidirectional) for draws in (1, DRAWS))
    mask_1, mask_K = (dense(each).mask_NN for each in (one, several))
    found = counterparts(one, several, context)
    index = (found.of >= 0).nonzero()[:, 0]
    of, image, copy, is_read = (each[index] for each in (found.of, found.image, found.copy, found.is_read))
    same_copy = (image[:, None] == image[None, :]) & (copy[:, None] == copy[None, :])
    readable = (copy < 0) | is_read
    same_image_read = (image[:, None] == image[None, :]) & (image >= 0)[:, None] & ~same_copy
    expected = mask_1[of[:, None], of[None, :]] & (same_copy | readable[None, :]) & ~same_image_read
    assert torch.equal(mask_K[index[:, None], index[None, :]], expected)
    assert set(copy.tolist()) == {-1, 0, 1, 2, *({DRAWS} if context == "clean" else ())}


def dense(batch: Batch) -> DenseAttention:
    kernel = batch.elements.attention("dense", torch.device("cpu"))
    assert isinstance(kernel, DenseAttention)
    return kernel


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@CONTEXTS
@pytest.mark.parametrize("bidirectional", [True, False])
def test_all_kernels_agree(sequences: Sequences, context: str, bidirectional: bool) -> None:
    batch = batch_of(sequences, DRAWS, context, bidirectional=bidirectional)
    elements = (batch.elements.documents_N, batch.elements.images_N, batch.elements.private_N)
    network = model()
    results = []
    for attention in (batch.attention, dense(batch)):
        text, image = normalised(network, replace(batch, attention=attention))
        results.append((text.item(), image.item(), gradient(network, text + image)))
    assert results[0][:2] == pytest.approx(results[1][:2], rel=1e-5)
    assert (results[0][2] - results[1][2]).norm() < 1e-5 * results[1][2].norm()
    with torch.no_grad():
        flex = FlexAttention.build(*elements, bidirectional=bidirectional)
        hidden = [network.hidden(batch.inputs, kernel).hidden_ND for kernel in (flex, dense(batch))]
    assert torch.allclose(*hidden, atol=1e-5)


@CONTEXTS
def test_text_and_the_first_draw_are_those_of_a_batch_with_one(sequences: Sequences, context: str) -> None:
    one, several = batch_of(sequences, 1, context), batch_of(sequences, DRAWS, context)
    network, found = model(), counterparts(one, several, context)
    for own, many, truth, truths in zip(
        one.inputs.images, several.inputs.images, one.images, several.images, strict=True
    ):
        first = slice(0, len(own.t_I))
        assert torch.equal(own.latents_IChw, many.latents_IChw[first])
        assert torch.equal(own.t_I, many.t_I[first])
        assert torch.equal(truth.target_IChw, truths.target_IChw[first])
    with torch.no_grad():
        before, after = (network.hidden(each.inputs, each.attention) for each in (one, several))
    index = ((found.of >= 0) & (found.copy <= 0)).nonzero()[:, 0]  # text, and first draws
    assert torch.allclose(after.hidden_ND[index], before.hidden_ND[found.of[index]], atol=1e-5)
    assert torch.isin(several.loss_index, index).any()
    assert len(several.targets) == len(one.targets)
    assert several.targets.sort().values.equal(one.targets.sort().values)


@CONTEXTS
def test_draws_are_of_one_image_at_one_place_each_with_its_own_noise_and_time(
    sequences: Sequences, context: str
) -> None:
    """Also of an image that begins its document: each of its draws stays below the limit."""
    one, several = batch_of(sequences, 1, context), batch_of(sequences, DRAWS, context)
    found = counterparts(one, several, context)
    real = found.of >= 0
    assert torch.equal(several.inputs.positions_N[real], one.inputs.positions_N[found.of[real]])
    alpha, sigma = (torch.from_numpy(each).float() for each in CosineSchedule().alpha_sigma())
    for image, truth in zip(several.inputs.images, several.images, strict=True):
        t_KI, eps_KIChw = image.t_I.view(DRAWS, -1), truth.target_IChw.unflatten(0, (DRAWS, -1))
        a, b = (each[t_KI][..., None, None, None] for each in (alpha, sigma))
        x0 = (image.latents_IChw.unflatten(0, (DRAWS, -1)) - b * eps_KIChw) / a
        easy = (t_KI < 900).all(0)  # near T the division magnifies rounding
        assert easy.sum() > 3
        assert torch.allclose(x0[0, easy], x0[1, easy], atol=1e-4)
        assert torch.allclose(x0[0, easy], x0[2, easy], atol=1e-4)
        for left, right in ((0, 1), (0, 2), (1, 2)):
            assert (t_KI[left] == t_KI[right]).float().mean() < 0.2
            assert abs(torch.corrcoef(torch.stack([eps_KIChw[left].flatten(), eps_KIChw[right].flatten()]))[0, 1]) < 0.2
    free, limited = (batch_of(sequences, DRAWS, context, noise_limit=limit) for limit in (1000, 9))
    for left, right in zip(free.inputs.images, limited.inputs.images, strict=True):
        changed = (left.t_I != right.t_I).view(DRAWS, -1)
        assert changed.any()
        assert changed.all(0).equal(changed.any(0))
        assert right.t_I.view(DRAWS, -1)[changed].max() <= 9


@CONTEXTS
def test_a_given_image_is_there_once(sequences: Sequences, context: str) -> None:
    one, several = (batch_of(sequences, draws, context, noise_limit=0) for draws in (1, DRAWS))
    assert several.num_images == DRAWS * one.num_images
    assert several.num_context == one.num_context > 0
    more = sum(image.patch_index_IP.numel() for image in one.inputs.images)
    assert several.num_elements == one.num_elements + (DRAWS - 1) * more
    for own, many in zip(one.inputs.context, several.inputs.context, strict=True):
        assert torch.equal(own.latents_IChw, many.latents_IChw)


@CONTEXTS
def test_counts_are_those_of_what_is_there(sequences: Sequences, context: str) -> None:
    one, several = batch_of(sequences, 1, context), batch_of(sequences, DRAWS, context)
    more = sum(image.patch_index_IP.numel() for image in one.inputs.images)
    assert several.num_elements == one.num_elements + (DRAWS - 1) * more
    real = torch.zeros(len(several.inputs.positions_N), dtype=torch.bool)
    real[several.inputs.text_index_T] = True
    for image in several.inputs.all_images:
        assert not real[image.patch_index_IP].any()
        real[image.patch_index_IP.flatten()] = True
    assert several.num_elements == int(real.sum())
    lengths = torch.bincount(several.elements.documents_N[real])
    assert several.squared_lengths == int((lengths**2).sum())
    work, alone = Work.of([several]), Work.of([one])
    assert {grid: DRAWS * number for grid, number in alone.images.items()} == dict(work.images)
    assert work.context == alone.context
    assert work.targets == alone.targets


@CONTEXTS
def test_the_draws_of_a_row_do_not_depend_on_the_other_rows(sequences: Sequences, context: str) -> None:
    made, network = maker(sequences, DRAWS, context), model()
    rows = np.arange(sequences.content.num_rows)
    with torch.no_grad():
        whole = loss_sums(network, made.make(rows, [(5, int(row)) for row in rows], 3))
        parts = [loss_sums(network, made.make(rows[row : row + 1], [(5, int(row))], 3)) for row in rows]
    assert sum(part.weighted_image.item() for part in parts) == pytest.approx(whole.weighted_image.item(), rel=1e-5)
    assert sum(part.text.item() for part in parts) == pytest.approx(whole.text.item(), rel=1e-5)


def test_rows_and_steps_have_their_own_draws(sequences: Sequences) -> None:
    made = maker(sequences, DRAWS)
    rows = np.zeros(3, dtype=np.int64)  # one row three times, as if in three batches
    batch = made.make(rows, [(0, 0), (0, 1), (1, 0)], 3)
    for image in batch.inputs.images:
        per_row = image.t_I.view(DRAWS, 3, -1)
        for left, right in ((0, 1), (0, 2), (1, 2)):
            assert (per_row[:, left] != per_row[:, right]).any(1).all()


def test_no_two_random_draws_of_a_step_come_from_one_generator(
    sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, their grids and the noise draws of each have their own, and so have the times of each row."""
    names: list[tuple[int | str, ...]] = []

    def recorded(seed: int, purpose: str, *index: int | str) -> torch.Generator:
        names.append((seed, purpose, *index))
        return torch_generator(seed, purpose, *index)

    monkeypatch.setattr("stages.train_model.images.torch_generator", recorded)
    batch_of(sequences, DRAWS, stratified_times=True)
    of_row = sequences.split("train").images[:, [0, 4]].tolist()
    rows, grids = {row for row, _ in of_row}, {(row, grid) for row, grid in of_row}
    assert len(grids) > len(rows) > 1
    assert len(set(names)) == len(names) == DRAWS * len(grids) + len(rows)


def test_only_training_has_several_draws(sequences: Sequences) -> None:
    """The held-out losses measure, with one draw: trainings with another number of draws can be compared."""
    found = []
    for draws in (1, DRAWS):
        config = ModelConfig(width=32, layers=1, heads=2)
        data = Data(sequences.folder, DiffusionConfig(noise_draws=draws), config)
        network = Transfusion(config, data.dims)
        network.initialise(torch.Generator().manual_seed(0))
        state = TrainState(network, [], {}, ranks=Ranks())
        found.append(heldout_losses(state, data, TrainConfig(steps=1, batch_rows=2, eval_rows=3), 5))
        batches = data.batches(TrainConfig(batch_rows=2), np.array([0, 1]), 0, 5, Ranks())
        found.append(sum(batch.num_images for batch in batches))
    assert found[0] == found[2]
    assert found[3] == DRAWS * found[1] > 0


def test_a_recipe_without_the_key_keeps_its_fingerprint() -> None:
    plain = result_config(DiffusionConfig())
    assert "noise_draws" not in plain
    assert DiffusionConfig.model_validate(plain).noise_draws == 1
    assert result_config(DiffusionConfig(noise_draws=1)) == plain
    assert result_config(DiffusionConfig(noise_draws=2)) == plain | {"noise_draws": 2}
    with pytest.raises(ValueError, match="noise_draws"):
        DiffusionConfig(noise_draws=0)
