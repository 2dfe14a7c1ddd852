"""diffusion.prompt_weight: the loss of text before the first image of its document counts less, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.artifacts.sequences import Sequences
from stages.diffusion.config import DiffusionConfig
from stages.model.config import ModelConfig
from stages.pack_sequences.config import PackConfig
from stages.train_model.batches import Batch
from stages.train_model.data import Data
from stages.train_model.objective import loss_sums, step_losses
from tests.builders import make_all
from tests.train_model.test_noise_draws import LONG, PAIRS, gradient, model

WEIGHT = 0.25


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "size tokens"])
def sequences(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    pack = PackConfig(
        row_length=64, condition_dropout=0.3, caption_first=0.6, heldout_fraction=0.1, size_tokens=request.param
    )
    return Sequences.open(make_all(tmp_path_factory.mktemp("work"), [*PAIRS, *LONG], pack))


def batch_of(sequences: Sequences, weight: float, draws: int = 2) -> Batch:
    """All rows of the training side."""
    diffusion = DiffusionConfig(prompt_weight=weight, noise_draws=draws, context_images="clean")
    data = Data(sequences.folder, diffusion, ModelConfig(width=32, layers=1, heads=2))
    rows = np.arange(sequences.content.num_rows)
    return data.train.make(rows, [(5, int(row)) for row in rows], 3)


def expected(batch: Batch, sequences: Sequences) -> list[float]:
    """The weights, read from the elements of the batch alone."""
    documents, texts = batch.elements.documents_N, batch.inputs.text_index_T
    openings = [index for index, id in zip(texts, batch.inputs.text_ids_T, strict=True) if id == sequences.content.boi]
    first = {int(documents[index]): int(index) for index in reversed(openings)}  # the mark before the first patch
    before = 1 if sequences.content.size_ids() else 0
    found = []
    for index in batch.loss_index.tolist():
        opening = first.get(int(documents[index]))
        found.append(1.0 if opening is None or index + 1 >= opening - before else WEIGHT)
    return found


def test_targets_before_the_first_image_have_the_weight_and_all_others_count_whole(sequences: Sequences) -> None:
    batch = batch_of(sequences, WEIGHT)
    assert batch.target_weights is not None
    weights = expected(batch, sequences)
    assert batch.target_weights.tolist() == weights
    assert 0.2 < weights.count(WEIGHT) / len(weights) < 0.9
    assert batch_of(sequences, 1.0).target_weights is None


def test_what_is_trained_is_weighted_and_what_is_reported_is_not(sequences: Sequences) -> None:
    """The gradient is that of each target's own loss times its weight."""
    network, batch, plain = model(), batch_of(sequences, WEIGHT), batch_of(sequences, 1.0)
    network = type(network)(network.config, replace(network.dims, vocab_size=sequences.content.vocab_size))
    network.initialise(torch.Generator().manual_seed(0))
    assert batch.target_weights is not None
    sums, plain_sums = loss_sums(network, batch), loss_sums(network, plain)
    logits, _ = network(batch.inputs, batch.attention, batch.loss_index)
    own = -logits.log_softmax(-1)[torch.arange(len(batch.targets)), batch.targets]
    wanted = (own * torch.tensor(expected(batch, sequences))).sum()
    torch.testing.assert_close(sums.weighted_text, wanted)
    torch.testing.assert_close(sums.text, own.sum().detach())
    torch.testing.assert_close(sums.text, plain_sums.text.detach())
    torch.testing.assert_close(plain_sums.weighted_text, plain_sums.text)
    loss, (total, text, _) = step_losses(sums, 7, 5, 0.0)
    assert loss.item() == pytest.approx(wanted.item() / 7)
    assert total.item() == pytest.approx(loss.item())
    assert text.item() == pytest.approx(own.sum().item() / 7)
    torch.testing.assert_close(gradient(network, sums.weighted_text), gradient(network, wanted), rtol=1e-3, atol=1e-4)
