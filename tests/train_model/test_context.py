"""What each element of a training row depends on, on small trained models, with images read noised (the paper) and clean; and
that the clean way is the sampler's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.artifacts.latents import Latents
from stages.artifacts.sequences import Sequences
from stages.core.runtime import Runtime
from stages.diffusion.process import Diffusion
from stages.diffusion.schedules import CosineSchedule
from stages.diffusion.weighting import Uniform
from stages.generation.config import GenerationConfig
from stages.generation.engine import Decoder, Engine
from stages.generation.layout import TokenSequence
from stages.model.attention import DenseAttention, allowed
from stages.model.config import ModelConfig, UNetCodec
from stages.model.transformer import ImageInputs, Inputs, ModelDims, Transfusion
from stages.pack_sequences.config import PackConfig
from stages.train_model.batches import Batch, BatchMaker
from stages.train_model.objective import loss_sums
from tests.builders import Story, make_all

STORIES = [
    *[Story((f"a pair {number}", None)) for number in range(24)],
    *[Story(("first ", None, "then ", None, f"end {number}"), fixed_order=True) for number in range(6)],
    *[Story((None, f"made blue {number}", None), fixed_order=True) for number in range(6)],
    *[Story((f"only text {number}",), fixed_order=True) for number in range(4)],
]
CONFIG = PackConfig(row_length=64, condition_dropout=0.3, caption_first=0.6, heldout_fraction=0.1)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    return Sequences.open(make_all(tmp_path_factory.mktemp("work"), STORIES, CONFIG))


def batch_of(sequences: Sequences, context: str, step: int = 0, noise_limit: int = 500) -> Batch:
    """All rows of the training side, with the draws of a step."""
    maker = BatchMaker(
        sequences.split("train"),
        sequences.content,
        (Latents.open(sequences.latents_folder()).rows(),),
        Diffusion(CosineSchedule()),
        noise_limit=noise_limit,
        weighting=Uniform(),
        bidirectional=True,
        clean_context=context == "clean",
    )
    rows = np.arange(sequences.content.num_rows)
    return maker.make(rows, [(step, int(row)) for row in rows], 3)


def train(sequences: Sequences, context: str, steps: int, **options: Any) -> Transfusion:
    network = Transfusion(ModelConfig(width=32, layers=2, heads=2, **options), ModelDims(400, 2, 2))
    network.initialise(torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    first = last = 0.0
    for step in range(steps):
        batch = batch_of(sequences, context, step)
        sums = loss_sums(network, batch)
        loss = sums.text / len(batch.targets) + sums.weighted_image / batch.num_images
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = first or loss.item(), loss.item()
    assert last < 0.8 * first
    return network.eval()


@dataclass(frozen=True)
class Trained:
    context: str
    model: Transfusion
    batch: Batch

    def hidden(self, inputs: Inputs) -> Tensor:
        with torch.no_grad():
            return self.model.hidden(inputs, self.batch.attention).hidden_ND

    def changed(self, inputs: Inputs) -> Tensor:
        """Which elements change when `inputs` replace the batch's. There is nothing between yes and no."""
        difference = (self.hidden(inputs) - self.hidden(self.batch.inputs)).abs().amax(1)
        yes = difference > 1e-4
        assert (difference[~yes] < 1e-6).all()
        return yes


@pytest.fixture(scope="module")
def clean(sequences: Sequences) -> Trained:
    return Trained("clean", train(sequences, "clean", 30), batch_of(sequences, "clean"))


@pytest.fixture(scope="module", params=["noised", "clean"])
def trained(request: pytest.FixtureRequest, sequences: Sequences, clean: Trained) -> Trained:
    if request.param == "clean":
        return clean
    return Trained("noised", train(sequences, "noised", 30), batch_of(sequences, "noised"))


def other(image: ImageInputs, chosen: int, *, latents: bool = True) -> ImageInputs:
    """The same images, of which one has another time, and other noise in it."""
    here = torch.arange(len(image.t_I)) == chosen
    noise = torch.randn(image.latents_IChw.shape, generator=torch.Generator().manual_seed(9))
    return replace(
        image,
        t_I=torch.where(here, 1001 - image.t_I, image.t_I),
        latents_IChw=torch.where(here[:, None, None, None] & latents, noise, image.latents_IChw),
    )


def some_images(batch: Batch) -> list[int]:
    """An image that begins its document, one that ends it, and one with text or an image behind it."""
    documents = batch.elements.documents_N[batch.inputs.images[0].patch_index_IP[:, 0]]
    counts = torch.bincount(documents)[documents]
    several = (counts > 1).nonzero()[:, 0].tolist()
    single = (counts == 1).nonzero()[:, 0].tolist()
    assert several
    assert single
    return [*several[:4], *single[:4]]


def test_a_noised_image_is_seen_by_itself_and_in_the_papers_way_by_all_that_follows(trained: Trained) -> None:
    """The whole of what a change of t and noise reaches. So text losses do not depend on later images, nor an image's loss on
    the times of later ones or of other documents; on earlier ones of its document it does only in the paper's way."""
    batch, image = trained.batch, trained.batch.inputs.images[0]
    index, reached_later = torch.arange(len(batch.elements.documents_N)), 0
    for number in some_images(batch):
        for latents in (False, True):
            found = trained.changed(replace(batch.inputs, images=(other(image, number, latents=latents),)))
            first = image.patch_index_IP[number, 0]
            expected = torch.isin(index, image.patch_index_IP[number])
            if trained.context == "noised":
                expected |= (batch.elements.documents_N == batch.elements.documents_N[first]) & (index >= first)
            real = torch.zeros_like(expected)  # padding sees what it likes
            real[batch.inputs.text_index_T] = True
            for each in batch.inputs.all_images:
                real[each.patch_index_IP.flatten()] = True
            assert torch.equal(found & real, expected & real)
            reached_later += int((expected & real).sum()) > image.patch_index_IP.shape[1]
    assert (reached_later > 0) == (trained.context == "noised")


def test_losses_follow_what_is_seen(trained: Trained) -> None:
    """With other draws of noise and time for every image, the losses of text before all images (and, read clean, of all text)
    stay what they were."""
    batch, image = trained.batch, trained.batch.inputs.images[0]
    changed = replace(batch, inputs=replace(batch.inputs, images=(other_times(image),)))
    with torch.no_grad():
        before, after = (trained.model(each.inputs, each.attention, each.loss_index)[0] for each in (batch, changed))
    same = (before - after).abs().amax(1) < 1e-5
    documents = batch.elements.documents_N
    first = torch.full((int(documents.max()) + 1,), len(documents))
    first.scatter_reduce_(0, documents[image.patch_index_IP[:, 0]], image.patch_index_IP[:, 0], "amin")
    early = batch.loss_index < first[documents[batch.loss_index]]
    assert early.any()
    assert (~early).any()
    assert torch.equal(same, early | (trained.context == "clean"))


def other_times(image: ImageInputs) -> ImageInputs:
    noise = torch.randn(image.latents_IChw.shape, generator=torch.Generator().manual_seed(8))
    return replace(image, t_I=1001 - image.t_I, latents_IChw=noise)


def test_every_patch_of_an_image_reaches_every_other(trained: Trained) -> None:
    batch, image = trained.batch, trained.batch.inputs.images[0]
    for row, column in ((0, 0), (0, 2), (2, 0), (2, 2)):  # a pixel inside each of the four patches
        pixel = torch.zeros_like(image.latents_IChw[0])
        pixel[:, row, column] = 1
        moved = replace(image, latents_IChw=image.latents_IChw + pixel)
        found = trained.changed(replace(batch.inputs, images=(moved,)))
        assert found[image.patch_index_IP].all()


def test_a_dropped_caption_is_no_caption(trained: Trained, sequences: Sequences) -> None:
    """The model says of an image whose caption was dropped what it says of one in a document that never had any."""
    batch, content = trained.batch, sequences.content
    image, documents = batch.inputs.images[0], batch.elements.documents_N
    scored = documents[batch.loss_index]
    dropped = (~torch.isin(documents[image.patch_index_IP[:, 0]], scored)).nonzero()[:, 0]
    assert len(dropped)
    alone = ImageInputs(
        image.latents_IChw[dropped], image.t_I[dropped], torch.arange(2, 6) + 6 * torch.arange(len(dropped))[:, None]
    )
    index = torch.arange(6 * len(dropped))
    text = index[index % 6 < 2]
    inputs = Inputs(index % 6, torch.tensor([content.bos, content.boi]).repeat(len(dropped)), text, (alone,))
    mask = DenseAttention(allowed(index // 6, torch.where(index % 6 < 2, -1, index // 6)))
    with torch.no_grad():
        (expected,) = trained.model.image_outputs(trained.model.hidden(inputs, mask))
        (found,) = trained.model.image_outputs(trained.model.hidden(batch.inputs, batch.attention))
    assert torch.allclose(found[dropped], expected, atol=1e-5)


def test_a_clean_copy_is_seen_by_all_that_follows_but_not_by_its_noised_twin(clean: Trained) -> None:
    (copies,) = clean.batch.inputs.context
    documents, text = clean.batch.elements.documents_N, clean.batch.inputs.text_index_T
    noised = clean.batch.inputs.images[0].patch_index_IP
    later_images = 0
    for number in range(0, len(copies.t_I), 5):
        here = torch.arange(len(copies.t_I)) == number
        moved = replace(copies, latents_IChw=copies.latents_IChw + here[:, None, None, None])
        found = clean.changed(replace(clean.batch.inputs, context=(moved,)))
        index, document = copies.patch_index_IP[number], documents[copies.patch_index_IP[number, 0]]
        assert torch.equal(found[text], (documents[text] == document) & (text > index[-1]))
        assert torch.equal(found[noised[:, 0]], (documents[noised[:, 0]] == document) & (noised[:, 0] > index[-1]))
        assert found[index].all()
        later_images += int(found[noised[:, 0]].sum())
    assert later_images > 0


def test_copies_change_neither_draws_nor_targets_nor_positions(sequences: Sequences) -> None:
    plain, clean = batch_of(sequences, "noised"), batch_of(sequences, "clean")
    assert torch.equal(plain.inputs.images[0].latents_IChw, clean.inputs.images[0].latents_IChw)
    assert torch.equal(plain.inputs.images[0].t_I, clean.inputs.images[0].t_I)
    assert torch.equal(plain.images[0].target_IChw, clean.images[0].target_IChw)
    assert torch.equal(plain.targets.sort().values, clean.targets.sort().values)  # longer documents lie elsewhere
    assert plain.num_images == clean.num_images
    (copies,) = clean.inputs.context
    assert not plain.inputs.context
    assert not copies.t_I.any()
    assert clean.num_elements == plain.num_elements + copies.patch_index_IP.numel()
    twins = copies.patch_index_IP - copies.patch_index_IP.shape[1]
    assert torch.equal(clean.inputs.positions_N[copies.patch_index_IP], clean.inputs.positions_N[twins])
    # each copy is the very image that its twin holds beneath the noise
    image, noise = clean.inputs.images[0], clean.images[0].target_IChw
    twin = (image.patch_index_IP[:, 0] == twins[:, :1]).nonzero()[:, 1]
    signal, level = (
        torch.from_numpy(each)[image.t_I[twin]].float()[:, None, None, None] for each in CosineSchedule().alpha_sigma()
    )
    beneath = (image.latents_IChw[twin] - level * noise[twin]) / signal
    easy = image.t_I[twin] < 900  # near T the division magnifies rounding
    assert easy.any()
    assert torch.allclose(copies.latents_IChw[easy], beneath[easy], atol=1e-4)
    eoi = copies.patch_index_IP[:, -1] + 1
    assert torch.equal(clean.inputs.positions_N[eoi], clean.inputs.positions_N[eoi - 1] + 1)
    for one in (plain, clean):  # the position of each text element is the one on disk
        first = torch.searchsorted(one.elements.documents_N, one.elements.documents_N)
        index = torch.arange(len(first)) - first
        copies_at = torch.zeros(len(first), dtype=torch.long)
        for image in one.inputs.context:
            copies_at[image.patch_index_IP.flatten()] = 1
        before = copies_at.cumsum(0) - copies_at
        text = one.inputs.text_index_T
        assert torch.equal(one.inputs.positions_N[text], (index - before + before[first])[text])
    # each image that text follows has a copy, and no other: those of dropped captions have nothing to be read by
    scored = clean.elements.documents_N[clean.loss_index]
    read = torch.isin(clean.elements.documents_N[clean.inputs.images[0].patch_index_IP[:, 0]], scored)
    assert (~read).any()
    assert len(copies.t_I) == int(read.sum())


@pytest.mark.parametrize("context", ["noised", "clean"])
def test_with_a_limit_of_zero_the_image_that_begins_a_document_is_conditioning(
    sequences: Sequences, context: str
) -> None:
    batch, usual = batch_of(sequences, context, noise_limit=0), batch_of(sequences, context)
    (conditioning,) = batch.inputs.context if context == "noised" else (None,)
    lead = usual.inputs.positions_N[usual.inputs.images[0].patch_index_IP[:, 0]] == 2
    dropped = ~torch.isin(
        usual.elements.documents_N[usual.inputs.images[0].patch_index_IP[:, 0]],
        usual.elements.documents_N[usual.loss_index],
    )
    lead &= ~dropped
    assert lead.any()
    assert usual.num_images - batch.num_images == int(lead.sum())
    assert batch.inputs.images[0].t_I.min() >= 1
    kept = usual.inputs.images[0].latents_IChw[~lead]
    assert torch.equal(batch.inputs.images[0].latents_IChw, kept)
    if conditioning is not None:
        assert len(conditioning.t_I) == int(lead.sum())
        assert not conditioning.t_I.any()
    else:  # it needs no copy: there are as many clean images as before, in shorter rows
        assert len(batch.inputs.context[0].t_I) == len(usual.inputs.context[0].t_I)
        assert usual.num_elements - batch.num_elements == 4 * int(lead.sum())
        assert batch.elements.private_N is not None
        seen = ~batch.elements.private_N
        assert seen[batch.inputs.context[0].patch_index_IP].all()  # what is conditioning is there for all that follows
        assert not seen[batch.inputs.images[0].patch_index_IP].any()


@pytest.mark.parametrize(
    "options",
    [{}, {"image_positions": "grid"}, {"codec": UNetCodec(channels=8, widest=16)}],
    ids=["linear", "grid positions", "unet"],
)
def test_the_sampler_computes_what_training_computed(sequences: Sequences, options: dict[str, Any]) -> None:
    """Text and clean images of a training document, fed to the sampler's cache piece by piece as it writes and draws: every
    hidden state after a finished image is the one of the training row, in which that image also stood noised."""
    network, batch = train(sequences, "clean", 12, **options), batch_of(sequences, "clean")
    content = sequences.content
    with torch.no_grad():
        hidden = network.hidden(batch.inputs, batch.attention).hidden_ND
    (copies,) = batch.inputs.context
    documents = batch.elements.documents_N
    counts = torch.bincount(documents[copies.patch_index_IP[:, 0]])
    assert counts.max() == 2
    ids = torch.full((len(documents),), -1)
    ids[batch.inputs.text_index_T] = batch.inputs.text_ids_T
    for document in [*(counts == 2).nonzero()[:3, 0].tolist(), *(counts == 1).nonzero()[:3, 0].tolist()]:
        engine = Engine(_loaded(network, content), GenerationConfig(guidance=1), 0, Runtime())
        decoder = Decoder(engine, 1, report_steps=False)
        latents = copies.latents_IChw[documents[copies.patch_index_IP[:, 0]] == document]
        number = compared = 0
        for index in (documents == document).nonzero()[:, 0].tolist():
            is_copy = index in copies.patch_index_IP[:, 0]
            if ids[index] < 0 and not is_copy:
                continue
            sequence = TokenSequence((int(ids[index]),))
            if is_copy:
                sequence = TokenSequence((content.pad,) * 4, ((0, latents[number]),))
                number += 1
            with torch.no_grad():
                found = decoder._append([0], [sequence])[0]
            assert torch.allclose(found, hidden[index + len(sequence.ids) - 1], atol=2e-5)
            compared += number > 0
        assert compared > 2
        assert number == len(latents)


def _loaded(network: Transfusion, content: Any) -> Any:
    return SimpleNamespace(
        model=network,
        text=SimpleNamespace(bos=content.bos, eos=content.eos, boi=content.boi, eoi=content.eoi, pad=content.pad),
        device=torch.device("cpu"),
        latent_shape=(2, 4, 4),
        size_ids={},
        checkpoint=SimpleNamespace(content=SimpleNamespace(patch_side=2, latent_limit=4.0, row_length=1000)),
        diffusion=Diffusion(CosineSchedule()),
    )
