"""What 'tfcli doctor' says of a source and how a run of it ends are the same, over all sources of the tables of bad inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from stages.coders.header import glance
from stages.coders.pixels import PixelPolicy, decode
from tests.bad_inputs import pictures, texts
from tests.bad_inputs.lab import Case, Lab, Shelf, png, sets

CASES = [case for case in (*pictures.CASES, *texts.CASES) if case.command in ("encode", "vae", "tokenize")]
STAGES = ("encode", "tokenize", "pack")


def doctor(settings: tuple[str, ...]) -> tuple[int, str]:
    """The exit code and all that is printed."""
    from tfcli.app import app

    args = ["doctor", "recipe.toml", "--workers", "0", "--quiet", *settings]
    result = CliRunner().invoke(app, args, prog_name="tfcli")
    assert result.exit_code in (0, 2, 3), result.output
    return result.exit_code, result.output


def run_all(lab: Lab, settings: tuple[str, ...]) -> tuple[int, str]:
    """The exit code of the first stage that fails, else 0; and what it says."""
    for stage in STAGES:
        outcome = lab.run(stage, *settings)
        if outcome.code:
            return outcome.code, f"{stage}: {outcome.stderr}"
    return 0, "came through"


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_doctor_says_how_a_run_ends(case: Case, tmp_path: Path, shelf: Shelf) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lab = Lab(tmp_path, shelf, patch)
        with lab.open:
            settings = case.make(lab) or ()
            said, word = doctor(settings)
            code, end = run_all(lab, settings)
    agree(said, word, code, end)


def agree(said: int, word: str, code: int, end: str) -> None:
    assert (said == 0) == (code == 0), f"doctor:\n{word}\nrun:\n{end}"
    assert ("a run would go through" in word) == (code == 0), word


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        (("pack.row_length=16",), 3),
        (("pack.row_length=16", 'pack.too_long_documents="truncate"'), 3),
        (("pack.row_length=40", 'pack.too_long_documents="truncate"'), 0),
        (('pack.row_length="auto"', 'tokenize.tokenizer.vocab_size="auto"'), 0),
        (("pack.weights={pictures=0}",), 3),
        (("pack.late_weights={pictures=0}",), 3),
        (("pack.weights={fotos=2}",), 2),
    ],
)
def test_doctor_says_what_packing_refuses(tmp_path: Path, shelf: Shelf, settings: tuple[str, ...], code: int) -> None:
    given = sets("vae.channels=[8, 8]", *settings)  # the factor of the lab's autoencoder
    with pytest.MonkeyPatch.context() as patch:
        lab = Lab(tmp_path, shelf, patch)
        said, word = doctor(given)
        found, end = run_all(lab, given)
    assert found == code, end
    assert code == 0 or end.startswith("pack: ")
    agree(said, word, found, end)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_sides_of_turned_pictures_are_those_of_decoding(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = png(Image.new("RGB", (30, 20)), kind, exif=exif)
    seen = glance(data)
    decoded = decode(data, PixelPolicy())
    assert seen is not None
    assert (seen.height, seen.width) == decoded.pixels.shape[:2]
