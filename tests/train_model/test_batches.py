"""Batches against a plain re-reading of the rows: loss indices, targets, times, the mask; independence from micro-batches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.artifacts.latents import Latents
from stages.artifacts.sequences import Sequences
from stages.core.errors import TfcliError
from stages.diffusion.process import Diffusion
from stages.diffusion.schedules import CosineSchedule
from stages.diffusion.weighting import MinSnr
from stages.model.attention import DenseAttention, allowed
from stages.model.config import LinearCodec, ModelConfig, UNetCodec
from stages.model.transformer import Inputs, ModelDims, Transfusion
from stages.pack_sequences.config import PackConfig
from stages.train_model.batches import Batch, BatchMaker, rows_of_step
from stages.train_model.objective import LossSums, loss_sums
from tests.builders import POSTERIOR_DEVIATION, Story, make_all

STORIES = [
    *[Story((f"a pair {number}", None)) for number in range(60)],
    *[Story(("first ", None, "then ", None, f"end {number}"), fixed_order=True) for number in range(8)],
    *[Story((None, f"starts with an image {number}"), fixed_order=True) for number in range(8)],
    *[Story((None, f"made blue {number}", None), fixed_order=True) for number in range(8)],
    *[Story((f"only text {number}",), fixed_order=True) for number in range(8)],
]
CONFIG = PackConfig(row_length=64, condition_dropout=0.3, caption_first=0.6, heldout_fraction=0.1)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    return Sequences.open(make_all(tmp_path_factory.mktemp("work"), STORIES, CONFIG))


def maker(sequences: Sequences, *, noise_limit: int = 500, bidirectional: bool = True) -> BatchMaker:
    latents = Latents.open(sequences.latents_folder())
    diffusion = Diffusion(CosineSchedule())
    return BatchMaker(
        sequences.split("train"),
        sequences.content,
        (latents.rows(),),
        diffusion,
        noise_limit=noise_limit,
        weighting=MinSnr(gamma=2.0),
        bidirectional=bidirectional,
    )


def whole(sequences: Sequences) -> tuple[np.ndarray[Any, Any], list[tuple[int | str, ...]]]:
    """All rows, and the names of their draws."""
    rows = np.arange(sequences.content.num_rows)
    return rows, [(0, int(row)) for row in rows]


def whole_batch(sequences: Sequences) -> Batch:
    return maker(sequences).make(*whole(sequences), 3)


def test_every_text_element_but_boi_predicts_its_successor(sequences: Sequences) -> None:
    table, content = sequences.split("train"), sequences.content
    expected: list[tuple[int, int]] = []
    skipped = {"boi": 0, "patch": 0, "dropped": 0}
    for entry, (row, start, length, _, dropped, _) in enumerate(table.documents.tolist()):
        patches = {
            index
            for r, first, count, _, _, owner in table.images.tolist()
            if owner == entry
            for index in range(first, first + count)
        }
        for index in range(start, start + length - 1):
            current, following = int(table.ids[row, index]), int(table.ids[row, index + 1])
            if dropped:
                skipped["dropped"] += 1
            elif index in patches:
                skipped["patch"] += 1
            elif current == content.boi:
                skipped["boi"] += 1
            else:
                assert index + 1 not in patches
                expected.append((current, following))
    batch = whole_batch(sequences)
    ids = {
        int(index): int(token) for index, token in zip(batch.inputs.text_index_T, batch.inputs.text_ids_T, strict=True)
    }
    found = [(ids[int(p)], int(t)) for p, t in zip(batch.loss_index, batch.targets, strict=True)]
    assert sorted(found) == sorted(expected)
    assert content.boi in batch.targets  # the model must learn to emit BOI
    assert content.eoi not in batch.targets  # the sampler appends EOI
    assert min(skipped.values()) > 0


def test_times_stay_below_the_limit_only_for_the_image_that_begins_a_document(sequences: Sequences) -> None:
    table = sequences.split("train")
    first = (table.documents[:, 5] == 1) & (table.documents[:, 4] == 0)
    document_of_image = table.images[:, 5]
    opens = np.array(
        [number == np.nonzero(document_of_image == owner)[0][0] for number, owner in enumerate(document_of_image)]
    )
    limited = first[document_of_image] & opens
    later = first[document_of_image] & ~opens
    times: list[torch.Tensor] = []
    rows = np.arange(sequences.content.num_rows)
    for step in range(40):
        batch = maker(sequences).make(rows, [(step, int(row)) for row in rows], 3)
        times.append(batch.inputs.images[0].t_I)
    t = torch.stack(times).numpy()  # rows in order, so images in the order of the table
    assert t[:, limited].max() <= 500
    assert t[:, ~limited].max() > 950
    assert t[:, later].max() > 900  # what follows is drawn from pure noise at sampling, so it must be learnt there
    assert t.min() >= 1
    assert limited.any()
    assert (~limited).any()
    dropped = (table.documents[:, 4] == 1)[table.images[:, 5]]
    assert dropped.any()
    assert t[:, dropped].max() > 500  # a dropped caption is no image-first document


def test_the_image_of_a_row_is_the_stored_one_and_the_noise_is_the_target(sequences: Sequences) -> None:
    table = sequences.split("train")
    batch = whole_batch(sequences)
    image, noise = batch.inputs.images[0], batch.images[0].target_IChw
    stored = torch.from_numpy(Latents.open(sequences.latents_folder()).rows().read(table.images[:, 3]))
    alpha_bar = torch.from_numpy(CosineSchedule().alpha_bar())[image.t_I][:, None, None, None].float()
    clean = (image.latents_IChw - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
    easy = image.t_I < 900  # near T the division magnifies rounding
    content = sequences.content
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (content.channel_mean, content.channel_std))
    normal = (stored[:, 0] - mean) / deviation
    error = (clean - normal)[easy]  # what is left is the draw from the posterior
    for channel in range(2):
        left = POSTERIOR_DEVIATION / content.channel_std[channel]
        assert error[:, channel].std().item() == pytest.approx(left, rel=0.15)
        assert error[:, channel].mean().item() == pytest.approx(0, abs=0.2 * left)
    assert noise.std().item() == pytest.approx(1, rel=0.1)


def model(**options: Any) -> Transfusion:
    network = Transfusion(ModelConfig(width=32, layers=2, heads=2, **options), ModelDims(400, 2, 2))
    network.initialise(torch.Generator().manual_seed(0))
    return network


@pytest.mark.parametrize("codec", [LinearCodec(), UNetCodec(channels=8, widest=16)], ids=["linear", "unet"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_losses_and_gradients_equal_the_dense_reference(
    sequences: Sequences, codec: LinearCodec | UNetCodec, *, bidirectional: bool
) -> None:
    batch = maker(sequences, bidirectional=bidirectional).make(*whole(sequences), 3)
    owner = torch.full((len(batch.inputs.positions_N),), -1)
    number = 0
    for group in batch.elements.groups.groups:
        for index in range(group.documents):
            owner[group.first + index * group.length : group.first + (index + 1) * group.length] = number
            number += 1
    image_of = torch.full_like(owner, -1)
    for number, patches in enumerate(batch.inputs.images[0].patch_index_IP):
        image_of[patches] = number
    dense = batch.to(torch.device("cpu"), "dense").attention
    assert isinstance(dense, DenseAttention)
    assert torch.equal(dense.mask_NN, allowed(owner, image_of, bidirectional=bidirectional))
    images_of_document = torch.bincount(owner[batch.inputs.images[0].patch_index_IP[:, 0]], minlength=number)
    starts = batch.inputs.positions_N[batch.inputs.images[0].patch_index_IP[:, 0]]
    assert (images_of_document == 0).any()
    assert (images_of_document > 1).any()
    assert (starts == 2).any()  # BOS, BOI
    assert batch.num_elements < len(owner)  # padding
    results = []
    for attention in (batch.attention, dense):
        network = model(codec=codec)
        sums = loss_sums(network, replace(batch, attention=attention))
        (sums.text / len(batch.targets) + sums.weighted_image / batch.num_images).backward()  # type: ignore[no-untyped-call]
        gradients = torch.cat([w.grad.flatten() for w in network.parameters() if w.grad is not None])
        results.append((sums.text.item(), sums.weighted_image.item(), gradients))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5)
    assert (results[0][2] - results[1][2]).norm() < 1e-5 * results[1][2].norm()


def test_flex_is_refused_where_it_cannot_learn(sequences: Sequences) -> None:
    with pytest.raises(TfcliError, match="needs CUDA"):
        whole_batch(sequences).to(torch.device("cpu"), "flex")


@pytest.mark.parametrize("cuts", [1, 2, 4])
def test_accumulation_gives_the_gradient_of_the_whole_batch(sequences: Sequences, cuts: int) -> None:
    """Sums over parts of uneven counts, divided by the counts of all."""
    rows, names = whole(sequences)
    assert len(rows) >= 4
    gradients = []
    for number in (1, cuts):
        network, made = model(), maker(sequences)
        parts = np.array_split(np.arange(len(rows)), number)
        batches = [made.make(rows[part], [names[row] for row in part], 3) for part in parts]
        targets, images = sum(len(b.targets) for b in batches), sum(b.num_images for b in batches)
        for batch in batches:
            sums = loss_sums(network, batch)
            (sums.text / targets + 5 * sums.weighted_image / images).backward()  # type: ignore[no-untyped-call]
        gradients.append(torch.cat([w.grad.flatten() for w in network.parameters() if w.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() < 1e-6 * gradients[0].norm()


def test_the_loss_of_an_image_does_not_depend_on_the_times_of_others(sequences: Sequences) -> None:
    """Images of other documents, and later ones of its own, may be as noisy as they like."""
    batch, network = whole_batch(sequences), model()
    image = batch.inputs.images[0]
    document_of_image = batch.elements.documents_N[image.patch_index_IP[:, 0]]
    first = 0
    earlier = (document_of_image == document_of_image[first]) & (
        image.patch_index_IP[:, 0] < image.patch_index_IP[first, 0]
    )
    assert not earlier.any()
    others = torch.arange(len(document_of_image)) != first
    changed = replace(image, t_I=torch.where(others, 1000 - image.t_I, image.t_I))
    with torch.no_grad():
        before, after = (
            network.image_outputs(network.hidden(replace(batch.inputs, images=(each,)), batch.attention))[0]
            for each in (image, changed)
        )
    assert torch.allclose(before[first], after[first], atol=1e-6)
    assert not torch.allclose(before[others], after[others], atol=1e-3)


def values(sums: LossSums) -> list[float]:
    return [sums.text.item(), sums.image.item(), sums.weighted_image.item()]


def test_the_sum_does_not_depend_on_the_micro_batches(sequences: Sequences) -> None:
    rows = np.arange(sequences.content.num_rows)
    names: list[tuple[int | str, ...]] = [(5, int(row)) for row in rows]
    network, made = model(), maker(sequences)
    with torch.no_grad():
        whole = values(loss_sums(network, made.make(rows, names, 3)))
        parts = np.zeros(3)
        for row in rows:
            batch = made.make(rows[row : row + 1], names[row : row + 1], 3)
            parts += values(loss_sums(network, batch))
    assert parts == pytest.approx(whole, rel=1e-5)


def test_a_row_twice_in_a_batch_counts_twice(sequences: Sequences) -> None:
    made = maker(sequences)
    with torch.no_grad():
        names: list[tuple[int | str, ...]] = [(0, 0), (0, 0)]
        one = values(loss_sums(model(), made.make(np.array([2]), names[:1], 3)))
        two = values(loss_sums(model(), made.make(np.array([2, 2]), names, 3)))
    assert two == pytest.approx([2 * value for value in one], rel=1e-5)


def test_captions_ignore_the_images_after_them(tmp_path: Path) -> None:
    """Where every image follows its caption, the caption's logits are the same whatever the noise."""
    pairs = [Story((f"a pair {number}", None)) for number in range(12)]
    config = PackConfig(row_length=64, condition_dropout=0, caption_first=1, heldout_fraction=0.1)
    made, network = maker(Sequences.open(make_all(tmp_path, pairs, config))), model()
    logits = []
    with torch.no_grad():
        for step in range(2):
            batch = made.make(np.array([0, 1]), [(step, 0), (step, 1)], 3)
            hidden = network.hidden(batch.inputs, batch.attention)
            ends = batch.targets == made.content.eos  # predicted from EOI, which stands behind the image
            logits.append(
                (
                    network.text_logits(hidden, batch.loss_index[~ends]),
                    network.text_logits(hidden, batch.loss_index[ends]),
                )
            )
    assert torch.equal(logits[0][0], logits[1][0])
    assert not torch.allclose(logits[0][1], logits[1][1])


def test_condition_dropout_equals_removing_the_text(sequences: Sequences) -> None:
    """A dropped document predicts noise exactly as a document that never had the text."""
    batch = whole_batch(sequences)
    table = sequences.split("train")
    dropped = np.nonzero((table.documents[:, 4] == 1)[table.images[:, 5]])[0]
    assert len(dropped)
    network, image = model(), batch.inputs.images[0]
    with torch.no_grad():
        predicted = network.image_outputs(network.hidden(batch.inputs, batch.attention))[0][dropped]
        for row, number in enumerate(dropped[:3]):
            content = sequences.content
            patches = torch.arange(2, 6)[None]
            alone = type(image)(image.latents_IChw[number : number + 1], image.t_I[number : number + 1], patches)
            ids = torch.tensor([content.bos, content.boi])
            inputs = Inputs(torch.arange(6), ids, torch.arange(2), (alone,))
            mask = DenseAttention(allowed(torch.zeros(6, dtype=torch.long), torch.tensor([-1, -1, 0, 0, 0, 0])))
            (output,) = network.image_outputs(network.hidden(inputs, mask))
            assert torch.allclose(output[0], predicted[row], atol=1e-5)


def test_rows_cover_each_epoch_once_in_another_order() -> None:
    steps = [rows_of_step(10, 3, 0, step) for step in range(20)]
    line = np.concatenate(steps)
    epochs = [line[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert (rows_of_step(10, 3, 0, 7) == steps[7]).all()
    assert (rows_of_step(10, 3, 1, 7) != steps[7]).any()
