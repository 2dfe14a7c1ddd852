"""Documents that several processes generate are those of one, whatever their prompts hold; a process that dies is named."""

from __future__ import annotations

import pytest
import torch

from stages.core.errors import ExitCode, TfcliError
from stages.core.runtime import Runtime
from stages.diffusion.samplers import DdpmSampler
from stages.generation import sharing
from stages.generation.config import GenerationConfig
from stages.generation.engine import Engine
from stages.generation.loading import LoadedModel, load_model
from stages.generation.prompts import ImageEdit, ImagePiece, Output, Prompt, TextPiece
from stages.generation.sharing import Generators, generator_count
from tests.bad_inputs.lab import Shelf

CONFIG = GenerationConfig(sampler=DdpmSampler(steps=4), max_text_tokens=6, temperature=1.0)


@pytest.fixture(scope="module")
def loaded(shelf: Shelf) -> LoadedModel:
    return load_model(shelf.trained / "work" / "checkpoint", "cpu")


def prompts(loaded: LoadedModel) -> list[Prompt]:
    """To be drawn, to be described, to be edited, and without a start."""
    noise = torch.randn(loaded.latent_shape, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(loaded.latent_shape[1:], dtype=torch.bool)
    mask[:2] = True
    return [
        Prompt((TextPiece("a small thing"),), image_next=True),
        Prompt((ImagePiece(noise), TextPiece("a")), max_images=0),
        Prompt((TextPiece("a thing"),), image_next=True, edit=ImageEdit(noise, mask, 0.75)),
        Prompt(max_images=2),
        Prompt((TextPiece("another"),), image_next=True, negative="a small thing"),
    ]


def check_same(found: list[Output], expected: list[Output]) -> None:
    assert [output.ended for output in found] == [output.ended for output in expected]
    for output, other in zip(found, expected, strict=True):
        for piece, wanted in zip(output.pieces, other.pieces, strict=True):
            if isinstance(wanted, ImagePiece):
                assert isinstance(piece, ImagePiece)
                torch.testing.assert_close(piece.latent, wanted.latent, rtol=0, atol=2e-4)
            else:
                assert piece == wanted


def test_two_processes_generate_what_one_does(loaded: LoadedModel) -> None:
    asked = prompts(loaded)
    with Generators(loaded, "fp32", Runtime(), 2) as generators:
        for seed, numbers in ((7, None), (8, [3, 9, 4, 11, 2])):
            expected = Engine(loaded, CONFIG, seed, Runtime()).generate(asked, numbers)
            assert sum(isinstance(piece, ImagePiece) for output in expected for piece in output.pieces) >= 3
            assert any(isinstance(piece, TextPiece) for output in expected for piece in output.pieces)
            check_same(generators.generate(CONFIG, seed, asked, numbers), expected)
        # fewer prompts than processes
        assert generators.generate(CONFIG, 7, []) == []
        check_same(generators.generate(CONFIG, 7, asked[:1]), Engine(loaded, CONFIG, 7, Runtime()).generate(asked[:1]))
        (helper,) = generators._helpers
        helper._process.kill()
        with pytest.raises(TfcliError, match="process 1 of the generation exited") as caught:
            generators.generate(CONFIG, 7, asked)
        assert caught.value.code == ExitCode.ENVIRONMENT
    assert helper.exited


def test_one_process_starts_no_other(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sharing, "Helper")
    asked = prompts(loaded)
    with Generators(loaded, "fp32", Runtime(), 1) as generators:
        check_same(generators.generate(CONFIG, 7, asked), Engine(loaded, CONFIG, 7, Runtime()).generate(asked))


def test_processes_are_as_many_as_the_work_pays_for(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "usable_cores", lambda: 4)
    assert generator_count(loaded, CONFIG, 200) == 1
    monkeypatch.setattr(sharing, "_LEAST_FLOPS", 0.0)
    assert generator_count(loaded, CONFIG, 200) == 4
    assert generator_count(loaded, CONFIG, 3) == 3
    monkeypatch.setattr(sharing, "usable_cores", lambda: 64)
    assert generator_count(loaded, CONFIG, 200) == 8
