"""inspect --images and --row on a real small run of the stages: the page holds the pictures, the row its spans."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from stages.artifacts.folder import building
from stages.artifacts.latents import Latents
from stages.coders.config import Images
from stages.coders.pixels import PixelPolicy, decode
from stages.coders.vae import load_vae
from stages.core.runtime import Runtime
from stages.encode_images import stage
from stages.encode_images.config import EncodeConfig
from stages.pack_sequences.config import PackConfig
from tests.builders import make_autoencoder, make_sequences, make_tokens, stamp
from tests.encode_images.test_stage import Pairs
from tfcli.app import app


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("look")
    vae = make_autoencoder(folder / "autoencoder")
    made = stamp("latents", "encode", {"autoencoder": vae}, folder / "latents")
    runtime = Runtime(device="cpu", workers=0)
    with building(folder / "latents", made, runtime) as build:
        settings = EncodeConfig(batch_size=16, shard_rows=4)
        stage.run(Pairs(), Images(size=16), settings, vae, build, runtime, 0)
    tokens = make_tokens(folder / "tokens", folder / "latents")
    make_sequences(folder / "sequences", tokens, folder / "latents", PackConfig(row_length=64, heldout_fraction=0))
    return folder


def call(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.mark.parametrize("kind", ["latents", "sequences"])
def test_the_page_shows_pictures_decoded_from_the_store_with_their_texts(work: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "page.html"
    done = call("inspect", work / kind, "--images", "--out", out, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(out)
    page = out.read_text()
    pictures = re.findall(r"data:image/png;base64,([^']+)", page)
    assert len(pictures) == 10
    assert ("could not be encoded" in page) == (kind == "latents")
    latents = Latents.open(work / "latents")
    stored = latents.rows().read(np.array([0]))[:, 0].astype(np.float32)
    expected = load_vae(work / "autoencoder" / "model", device="cpu").decode(stored)[0]
    shown = [decode(base64.b64decode(text), PixelPolicy()).pixels for text in pictures]
    assert any(np.array_equal(pixels, expected) for pixels in shown)
    assert "text 0<small>d0, row 0</small>" in page


def test_the_name_of_the_page_and_the_number_of_pictures(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("inspect", work / "latents", "--images", "--count", "3", "--device", "cpu")
    assert done.stdout.strip() == f"{work.name}-latents.html"
    assert Path(done.stdout.strip()).read_text().count("data:image/png") == 2 + (5 not in (0, 5, 10))


def test_a_row_is_printed_with_its_spans(work: Path) -> None:
    done = call("inspect", work / "sequences", "--row", "0")
    assert done.exit_code == 0
    assert re.search(r"<bos>.*\[16 patches: p\d+\.png, row \d+ of latents 8x8\]<eoi>", done.stdout)
    assert "places unused]" in done.stdout
    spans = json.loads(call("inspect", work / "sequences", "--row", "0", "--json").stdout)["spans"]
    assert sum(span["length"] for span in spans) == 64


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["sequences", "--row", "9999"], "no row 9999"),
        (["sequences", "--row", "0", "--side", "left"], "no side left"),
        (["latents", "--row", "0"], "it has no rows"),
        (["tokens", "--images"], "hold no pictures"),
        ([".", "--images"], "is a work folder"),
    ],
)
def test_what_cannot_be_shown_is_a_usage_error(work: Path, args: list[str], what: str) -> None:
    done = call("inspect", work / args[0], *args[1:])
    assert done.exit_code == 2
    assert what in done.output
