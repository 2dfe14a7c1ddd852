"""The sequences of sampling are those that packing wrote for training, and held-out images are normalised. Both are compared with
the artifacts themselves, since the engine and its reference share the code that builds sequences."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stages.artifacts.latents import Latents, StoredImage
from stages.artifacts.sequences import Sequences
from stages.artifacts.tokens import Tokens
from stages.coders.scale import LatentScale
from stages.core.runtime import Runtime
from stages.diffusion.process import Diffusion
from stages.diffusion.samplers import DdimSampler
from stages.diffusion.schedules import CosineSchedule
from stages.generation.config import GenerationConfig
from stages.generation.engine import Engine
from stages.generation.heldout import heldout_documents, pieces_of
from stages.generation.layout import SequenceBuilder
from stages.generation.prompts import ImageEdit, ImagePiece, Prompt, TextPiece
from stages.model.attention import Attention
from stages.model.config import ModelConfig
from stages.model.transformer import Inputs, ModelDims, Outputs, Transfusion
from stages.pack_sequences.config import PackConfig
from tests.builders import Story, make_all

STORIES = [
    *[Story((f"a pair {number}", None)) for number in range(12)],
    *[Story((f"a wide one {number}", None), wide=True) for number in range(12)],
    *[Story((None, f"made blue {number}", None), fixed_order=True) for number in range(12)],
]
PACK = PackConfig(row_length=64, condition_dropout=0.0, caption_first=1.0, heldout_fraction=0.4)


@pytest.fixture(scope="module", params=[True, False], ids=["size tokens", "no size tokens"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    pack = PACK.model_copy(update={"size_tokens": request.param})
    work: Path = tmp_path_factory.mktemp("work")
    sequences = Sequences.open(make_all(work, STORIES, pack))
    tokens, content = Tokens.open(sequences.tokens_folder()), sequences.content
    model = Transfusion(ModelConfig(width=32, layers=1, heads=2), ModelDims(content.vocab_size, 2, 2)).eval()
    model.initialise(torch.Generator().manual_seed(0))
    return SimpleNamespace(
        sequences=sequences,
        tokens=tokens,
        latents=Latents.open(sequences.latents_folder()),
        scale=LatentScale(content.channel_mean, content.channel_std),
        text=tokens.text_coder(),
        device=torch.device("cpu"),
        model=model,
        diffusion=Diffusion(CosineSchedule()),
        latent_shape=(2, 4, 4),
        size_ids=content.size_ids(),
        checkpoint=SimpleNamespace(content=SimpleNamespace(patch_side=2, latent_limit=4.0, row_length=1000)),
    )


def rows_of(loaded: Any) -> dict[int, tuple[list[int], list[int]]]:
    """For each held-out document: its elements in the packed row, and the indices of first patches among them."""
    table = loaded.sequences.split("heldout")
    found = {}
    for entry, (row, start, length, document, _, _) in enumerate(table.documents.tolist()):
        firsts = [
            first - start for _, first, _, _, _, document_entry in table.images.tolist() if document_entry == entry
        ]
        found[document] = (table.ids[row, start : start + length].tolist(), firsts)
    return found


def test_sequences_are_those_that_were_packed(loaded: Any) -> None:
    content, rows = loaded.sequences.content, rows_of(loaded)
    builder = SequenceBuilder(loaded.text, 2, loaded.size_ids)
    several = 0
    for document in heldout_documents(loaded):
        packed, firsts = rows[document.index]
        sequence = builder.build(pieces_of(document, loaded))
        assert packed[0] == content.bos
        assert packed[-1] == content.eos
        assert list(sequence.ids) == packed[:-1]  # the model itself writes EOS
        assert [first for first, _ in sequence.images] == firsts
        several += len(firsts) > 1
    assert several > 0


def test_heldout_images_are_the_normalised_means_that_are_stored(loaded: Any) -> None:
    compared, content = {0: 0, 1: 0}, loaded.sequences.content
    for document in heldout_documents(loaded):
        for segment, piece in zip(document.segments, pieces_of(document, loaded), strict=True):
            if not isinstance(segment, StoredImage):
                continue
            assert isinstance(piece, ImagePiece)
            raw = loaded.latents.rows(segment.grid).read(np.array([segment.row]))[0, 0]
            for channel in range(2):
                expected = (raw[channel] - content.channel_mean[channel]) / content.channel_std[channel]
                assert np.allclose(piece.latent[channel].numpy(), expected, atol=1e-5)
            compared[segment.grid] += 1
    assert min(compared.values()) > 0


def test_the_model_reads_in_sampling_what_it_read_in_training(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In all passes of the engine every text element has the id and the position of the packed row, finished images are read at
    t = 0 at their positions in the row, and an image under way at the sampler's t at those positions."""
    content, rows = loaded.sequences.content, rows_of(loaded)
    (document, *_) = [d for d in heldout_documents(loaded) if len(d.segments) == 3]
    packed, firsts = rows[document.index]
    passes: list[Inputs] = []
    real = Transfusion.hidden

    def spied(self: Transfusion, inputs: Inputs, attention: Attention) -> Outputs:
        passes.append(inputs)
        return real(self, inputs, attention)

    monkeypatch.setattr(Transfusion, "hidden", spied)
    config = GenerationConfig(sampler=DdimSampler(steps=4), guidance=1.0, max_text_tokens=1)
    pieces = pieces_of(document, loaded)[:2]
    prompt = Prompt(pieces, image_next=True, max_images=2, size=(4, 4))
    (output,) = Engine(loaded, config, 7, Runtime()).generate([prompt])
    assert isinstance(output.pieces[0], ImagePiece)
    text: dict[int, int] = {}
    for inputs in passes:
        for index, token in zip(inputs.text_index_T.tolist(), inputs.text_ids_T.tolist(), strict=True):
            text[int(inputs.positions_N[index])] = token
    until = firsts[1] + 4  # the EOI of the generated image
    images = {first + number for first in firsts for number in range(4)}
    assert [text[position] for position in range(until + 1) if position not in images] == [
        token for position, token in enumerate(packed[: until + 1]) if position not in images
    ]
    assert content.eoi == packed[until]
    read, denoised = [], []
    for inputs in passes:
        for image in inputs.images:
            positions = inputs.positions_N[image.patch_index_IP[0]].tolist()
            (read if int(image.t_I[0]) == 0 else denoised).append((positions, int(image.t_I[0])))
    spans = [list(range(first, first + 4)) for first in firsts]
    assert [positions for positions, _ in read] == spans  # the one of the prompt, then the generated one, clean
    assert denoised == [(spans[1], t) for t in (1000, 750, 500, 250)]
    first_read = next(image for inputs in passes for image in inputs.images)
    in_prompt = pieces[0]
    assert isinstance(in_prompt, ImagePiece)
    assert torch.equal(first_read.latents_IChw[0], in_prompt.latent)
    last_read = next(i for inputs in reversed(passes) for i in inputs.images)
    assert torch.equal(last_read.latents_IChw[0], output.pieces[0].latent)


def test_guidance_reads_the_document_without_its_text(loaded: Any) -> None:
    """The branch without text starts like a document whose caption was dropped: BOS, then the image's opening."""
    content = loaded.sequences.content
    opening = [loaded.size_ids[(4, 4)]] if loaded.size_ids else []
    builder = SequenceBuilder(loaded.text, 2, loaded.size_ids)
    assert list(builder.build((), (4, 4)).ids) == [content.bos, *opening, content.boi]
    text = loaded.text.encode("a pair 3")
    assert list(builder.build((TextPiece("a pair 3"),), (4, 4)).ids) == [content.bos, *text, *opening, content.boi]


def test_edits_with_and_without_a_mask_share_a_sampler_and_not_their_masks(loaded: Any) -> None:
    """Edits of one size and strength: with a mask the known part stays, without one everything may change, as in each alone."""
    generator = torch.Generator().manual_seed(3)
    one, other = (torch.randn(2, 4, 4, generator=generator) for _ in range(2))
    half = torch.zeros(4, 4, dtype=torch.bool)
    half[:, :2] = True
    edits = [ImageEdit(one, half, strength=0.6), ImageEdit(other, strength=0.6)]
    prompts = [Prompt((TextPiece("a pair 3"),), image_next=True, edit=edit) for edit in edits]
    config = GenerationConfig(sampler=DdimSampler(steps=4), guidance=1.0)
    engine = Engine(loaded, config, 7, Runtime())
    together = engine.generate(prompts)
    for number, output in enumerate(together):
        (alone,) = engine.generate([prompts[number]], [number])
        (piece,), (expected,) = output.pieces, alone.pieces
        assert isinstance(piece, ImagePiece)
        assert isinstance(expected, ImagePiece)
        assert torch.allclose(piece.latent, expected.latent, atol=1e-3)
        kept = piece.latent == edits[number].latent
        assert bool(kept[:, :, 2:].all()) == (number == 0)
        assert not kept[:, :, :2].any()
