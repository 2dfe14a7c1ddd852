"""The laws of the image loss, each written down here in plain numpy from the papers: normalised latents, times by size, the
limit of images that begin a document, weights by the ratio of signal to noise, and what is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.artifacts.latents import Latents
from stages.artifacts.sequences import Sequences
from stages.diffusion.config import DiffusionConfig
from stages.diffusion.process import Diffusion
from stages.diffusion.schedules import CosineSchedule, FlowSchedule
from stages.diffusion.targets import NoiseTarget, Target, VelocityTarget
from stages.diffusion.timesteps import LogitNormalTimesteps
from stages.diffusion.weighting import MinSnr
from stages.model.config import ModelConfig
from stages.model.transformer import ModelDims, Transfusion
from stages.pack_sequences.config import PackConfig
from stages.train_model.batches import Batch, BatchMaker
from stages.train_model.checkpointing import TrainState
from stages.train_model.config import TrainConfig
from stages.train_model.data import Data
from stages.train_model.distributed.ranks import Ranks
from stages.train_model.heldout import heldout_losses
from stages.train_model.objective import loss_sums, step_losses
from tests.builders import CHANNEL_STDS, POSTERIOR_DEVIATION, Story, make_all

STORIES = [
    *[Story((f"a pair {number}", None)) for number in range(30)],
    *[Story((f"a wide one {number}", None), wide=True) for number in range(30)],
    *[Story((None, f"starts with an image {number}", None), fixed_order=True) for number in range(16)],
]
PACK = PackConfig(row_length=64, size_tokens=True, condition_dropout=0.2, heldout_fraction=0.2)
GAMMA = 0.7
Floats = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture(scope="module", params=[True, False], ids=["size tokens", "no size tokens"])
def sequences(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    pack = PACK.model_copy(update={"size_tokens": request.param})
    return Sequences.open(make_all(tmp_path_factory.mktemp("work"), STORIES, pack))


def batch_of(sequences: Sequences, diffusion: Diffusion | None = None, step: int = 0, noise_limit: int = 1000) -> Batch:
    latents = Latents.open(sequences.latents_folder())
    maker = BatchMaker(
        sequences.split("train"),
        sequences.content,
        (latents.rows(0), latents.rows(1)),
        diffusion or Diffusion(CosineSchedule()),
        noise_limit=noise_limit,
        weighting=MinSnr(gamma=GAMMA),
        bidirectional=True,
    )
    rows = np.arange(sequences.content.num_rows)
    return maker.make(rows, [(step, int(row)) for row in rows], 3)


def levels(t: torch.Tensor) -> tuple[Floats, Floats]:
    """a and b of Nichol and Dhariwal 2021, eq. 17; without the limit of beta, which holds at t = T alone."""
    assert int(t.max()) < 1000
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    alpha_bar = (f / f[0])[t.numpy()]
    return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


def test_latents_are_trained_on_with_mean_0_and_std_1(sequences: Sequences) -> None:
    """Noised to t, the latents of a channel have the mean 0 and the variance a^2 (1 + posterior) + b^2; here of channels whose
    raw means are 3 and -1, deviations 0.5 and 2. So a picture of pure noise is what sampling starts from."""
    found: list[list[float]] = [[], []]
    for step in range(6):
        batch = batch_of(sequences, step=step)
        for image, truth in zip(batch.inputs.images, batch.images, strict=True):
            near = image.t_I < 300
            a, b = (torch.from_numpy(each)[:, None, None, None] for each in levels(image.t_I[near]))
            clean = (image.latents_IChw[near] - b * truth.target_IChw[near]) / a
            for channel in range(2):
                found[channel] += clean[:, channel].flatten().tolist()
    for channel, values in enumerate(found):
        assert len(values) > 1000
        assert np.mean(values) == pytest.approx(0, abs=0.25)
        variance = 1 + (POSTERIOR_DEVIATION / CHANNEL_STDS[channel]) ** 2
        assert np.var(values) == pytest.approx(variance, rel=0.25)


class Constant(Transfusion):
    """A model that predicts the same value of every pixel."""

    def image_outputs(self, outputs: Any) -> tuple[torch.Tensor, ...]:
        return tuple(torch.full_like(each, 0.3) for each in super().image_outputs(outputs))


def constant_model(sequences: Sequences) -> Constant:
    network = Constant(ModelConfig(width=32, layers=1, heads=2), ModelDims(sequences.content.vocab_size, 2, 2))
    network.initialise(torch.Generator().manual_seed(0))
    return network


@pytest.mark.parametrize("target", [NoiseTarget(), VelocityTarget()], ids=lambda target: target.kind)
def test_the_trained_loss_weighs_by_min_snr_and_the_reported_one_is_that_of_the_noise(
    sequences: Sequences, target: Target
) -> None:
    """Hang et al. 2023, eq. 8: min(SNR, gamma) times the squared error of x_0; reported: the squared error of eps. From an
    error e of the target: of the noise, x_0 is off by (b/a) e; of the velocity, x_0 by b e and the noise by a e."""
    batch = batch_of(sequences, Diffusion(CosineSchedule(), target))
    with torch.no_grad():
        sums = loss_sums(constant_model(sequences), batch)
    trained = reported = plain = 0.0
    for image, truth, own in zip(batch.inputs.images, batch.images, sums.eps_mse, strict=True):
        a, b = levels(image.t_I)
        error = np.square(0.3 - truth.target_IChw.numpy().astype(np.float64)).mean((1, 2, 3))
        of_clean, of_noise = (b / a) ** 2 * error, error
        if target.kind == "velocity":
            of_clean, of_noise = b**2 * error, a**2 * error
        trained += float((np.minimum((a / b) ** 2, GAMMA) * of_clean).sum())
        reported += float(of_noise.sum())
        plain += float(error.sum())
        assert own.tolist() == pytest.approx(of_noise.tolist(), rel=1e-3)
    assert sums.weighted_image.item() == pytest.approx(trained, rel=1e-3)
    assert sums.image.item() == pytest.approx(reported, rel=1e-3)
    loss, (_, text, image) = step_losses(sums, 7, 5, 3.0)
    assert text.item() == pytest.approx(sums.text.item() / 7)
    assert loss.item() == pytest.approx(sums.text.item() / 7 + 3 * trained / 5, rel=1e-3)
    assert image.item() == pytest.approx(reported / 5, rel=1e-3)
    assert abs(trained - plain) > 0.05 * plain
    if target.kind == "velocity":
        assert abs(reported - plain) > 0.05 * plain


@pytest.mark.parametrize("context", ["noised", "clean"])
def test_the_image_that_begins_a_document_stays_below_the_limit(sequences: Sequences, context: str) -> None:
    """Paper, table 8; whatever stands before its BOI: BOS alone, or the id of its size too. Read from the rows themselves."""
    model = ModelConfig(width=32, layers=1, heads=2)
    data = Data(sequences.folder, DiffusionConfig(noise_limit=200, context_images=context), model)  # type: ignore[arg-type]
    content = sequences.content
    marks = {content.bos, content.boi, *content.size_ids().values()}
    first, other = [], []
    for step in range(12):
        rows = np.arange(content.num_rows)
        batch = data.train.make(rows, [(step, int(row)) for row in rows], 3)
        ids = torch.full((len(batch.inputs.positions_N),), -1)
        ids[batch.inputs.text_index_T] = batch.inputs.text_ids_T
        scored = set(batch.elements.documents_N[batch.loss_index].tolist())
        for image in batch.inputs.images:
            for t, index in zip(image.t_I.tolist(), image.patch_index_IP[:, 0].tolist(), strict=True):
                document = int(batch.elements.documents_N[index])
                begin = int((batch.elements.documents_N == document).nonzero()[0, 0])
                begins = all(int(ids[each]) in marks for each in range(begin, index)) and document in scored
                (first if begins else other).append(t)
    assert len(first) > 50
    assert 150 < max(first) <= 200
    assert max(other) > 950


def test_times_move_with_the_size_of_the_image(sequences: Sequences) -> None:
    """Esser et al. 2024, eq. 23: with n latent pixels, t / (1 - t) grows sqrt(n / base) times. The median of a logit-normal of
    mean 0 is then sqrt(n / base) / (1 + sqrt(n / base))."""
    diffusion = Diffusion(FlowSchedule(), NoiseTarget(), LogitNormalTimesteps(mean=0.0, deviation=0.5, base_pixels=4))
    drawn: dict[int, list[int]] = {}
    for step in range(12):
        for image in batch_of(sequences, diffusion, step).inputs.images:
            drawn.setdefault(image.latents_IChw[0, 0].numel(), []).extend(image.t_I.tolist())
    assert set(drawn) == {16, 32}
    for pixels, times in drawn.items():
        moved = np.sqrt(pixels / 4)
        assert np.median(times) == pytest.approx(1000 * moved / (1 + moved), abs=25)


def test_heldout_losses_by_quarters_are_those_of_their_noise_levels(sequences: Sequences) -> None:
    """image_loss_t25 is the mean error of the noise over images at t = 1 to 250, next to clean; t100 over 751 to 1000."""
    train = TrainConfig(steps=1, batch_rows=1, eval_rows=6)
    diffusion = DiffusionConfig(target=VelocityTarget(), noise_limit=1000)
    data = Data(sequences.folder, diffusion, ModelConfig(width=32, layers=1, heads=2))
    network = constant_model(sequences)
    found, bad_rows = heldout_losses(TrainState(network, [], {}, ranks=Ranks()), data, train, 5)
    assert bad_rows == []
    by_quarter: dict[int, list[float]] = {}
    for row in range(min(6, sequences.content.heldout_rows)):
        batch = data.heldout.make(np.array([row]), [("heldout", row)], 5)
        for image, truth in zip(batch.inputs.images, batch.images, strict=True):
            a, _ = levels(image.t_I)
            errors = a**2 * np.square(0.3 - truth.target_IChw.numpy().astype(np.float64)).mean((1, 2, 3))
            for t, error in zip(image.t_I.tolist(), errors, strict=True):
                quarter = next(end for end in (250, 500, 750, 1000) if t <= end)
                by_quarter.setdefault(quarter // 10, []).append(float(error))
    assert len(by_quarter) == 4
    for quarter, errors in by_quarter.items():
        assert found[f"image_loss_t{quarter}"] == pytest.approx(np.mean(errors), rel=1e-3)
    assert np.mean(by_quarter[100]) < 0.5 * np.mean(by_quarter[25])
    everything = [error for errors in by_quarter.values() for error in errors]
    assert found["image_loss"] == pytest.approx(np.mean(everything), rel=1e-3)


def test_the_limit_of_sampling_is_that_of_the_normalised_latents_of_training(tmp_path: Path) -> None:
    """The largest among the pictures that are trained on; those that are held out reach further here, and do not count."""
    stories = [Story((f"a pair {number}", None), heldout=number > 5, wide=number % 2 == 0) for number in range(60)]
    sequences = Sequences.open(make_all(tmp_path, stories, PackConfig(row_length=64, heldout_fraction=0)))
    data = Data(sequences.folder, DiffusionConfig(), ModelConfig(width=32, layers=1, heads=2))
    latents, content = Latents.open(sequences.latents_folder()), sequences.content
    largest: dict[str, float] = {}
    for side in ("train", "heldout"):
        for row, grid in sequences.split(side).images[:, 3:5].tolist():
            raw = latents.rows(grid).read(np.array([row]))[0, 0]
            for channel in range(2):
                normal = (raw[channel] - content.channel_mean[channel]) / content.channel_std[channel]
                largest[side] = max(largest.get(side, 0.0), float(np.abs(normal).max()))
    assert data.latent_limit() == pytest.approx(largest["train"], rel=1e-5)
    assert largest["heldout"] > 1.05 * largest["train"]
