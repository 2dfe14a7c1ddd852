"""The drawings of the documents are what their script makes of today's code, and the row is one that training would read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from docs.drawings.draw import DRAWINGS, FOLDER, example_row, loss_of, mask_of, positions_of
from stages.artifacts.latents import Grid
from stages.artifacts.rows import Frames
from stages.artifacts.sequences import RowTable, SequencesContent
from stages.diffusion.process import Diffusion
from stages.diffusion.schedules import CosineSchedule
from stages.diffusion.weighting import MinSnr
from stages.train_model.batches import Batch, BatchMaker

SPECIAL = {"pad": 0, "BOS": 1, "EOS": 2, "BOI": 3, "EOI": 4}
GRID = Grid(name="4x4", height=4, width=4, rows=2, pictures=2)


@pytest.mark.parametrize("name", DRAWINGS)
def test_committed_drawings_are_what_the_script_makes(name: str) -> None:
    assert (FOLDER / name).read_text() == DRAWINGS[name](), "run 'make drawings' and look at the difference"


class _Latents:
    """Stands in for the reader of latent rows."""

    def read(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.ones((len(rows), 2, 1, 4, 4), np.float32)


def drawn_batch() -> Batch:
    """The drawn row as packing stores it, read as training reads it."""
    row = example_row()
    words = {element.label: 5 + number for number, element in enumerate(row) if element.kind == "text"}
    ids = [0 if element.kind == "patch" else {**SPECIAL, **words}[element.label] for element in row]
    documents, images = [], []
    for document in (0, 1):
        inside = [index for index, element in enumerate(row) if element.document == document]
        patches = [index for index, element in enumerate(row) if element.image == document]
        documents.append([0, inside[0], len(inside), document, 0, 0])
        images.append([0, patches[0], len(patches), document, 0, document])
    table = RowTable(
        np.array([ids], np.int32), np.array(documents), np.array(images), np.array([0, 2]), np.array([0, 2])
    )
    content = SequencesContent(
        vocab_size=5 + len(row),
        bos=1,
        eos=2,
        boi=3,
        eoi=4,
        pad=0,
        row_length=len(row),
        patch_side=2,
        latent_channels=1,
        picture_size=16,
        grids=[GRID],
        channel_mean=[0.0],
        channel_std=[1.0],
        num_rows=1,
        heldout_rows=0,
        passes=1,
    )
    assert table.broken_rule(content, Frames.of([GRID], 2, {})) is None
    maker = BatchMaker(
        table,
        content,
        (_Latents(),),  # type: ignore[arg-type]
        Diffusion(CosineSchedule()),
        noise_limit=500,
        weighting=MinSnr(gamma=2.0),
        bidirectional=True,
    )
    return maker.make(np.array([0]), [(0, 0)], 0)


def test_the_drawn_row_is_read_by_training_as_it_is_drawn() -> None:
    row, batch = example_row(), drawn_batch()
    real = [index for index, element in enumerate(row) if element.kind != "pad"]
    documents_N, position_N = batch.elements.documents_N, batch.inputs.positions_N
    # where each element of the row is in the flat batch: documents are padded there, each at its own end
    index_of = {}
    for flat, (document, position) in enumerate(zip(documents_N.tolist(), position_N.tolist(), strict=True)):
        index_of.setdefault((document, position), flat)
    flat = torch.tensor([index_of[row[index].document, positions_of(row)[index]] for index in real])
    mask_NN = batch.elements.attention("dense", torch.device("cpu")).mask_NN  # type: ignore[attr-defined]
    assert torch.equal(mask_of(row)[: len(real), : len(real)], mask_NN[flat][:, flat])
    patches = set(torch.cat([image.patch_index_IP.flatten() for image in batch.inputs.images]).tolist())
    text = set(batch.loss_index.tolist())
    found = ["image" if index in patches else "text" if index in text else "" for index in flat.tolist()]
    assert found == loss_of(row)[: len(real)]
    assert {"image", "text", ""} == set(found)
