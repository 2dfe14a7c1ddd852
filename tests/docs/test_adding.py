"""The worked examples of docs/adding: applied to a copy of the repository, they run, and keep the rules of the house."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.docs.blocks import ROOT, apply_page

PAGES = sorted((ROOT / "docs" / "adding").glob("*.md"))
COLOURS = ("red", "green", "blue", "grey")


def call(repository: Path, *arguments: str) -> str:
    """Run a Python command in the copy; its standard output."""
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the changes of all pages."""
    folder = tmp_path_factory.mktemp("copy") / "repository"
    for name in ("stages", "tfcli", "recipes"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    assert {page.stem for page in PAGES} >= {"source", "sampler", "codec", "tracker"}
    for page in PAGES:
        apply_page(page, folder)
    return folder


def test_the_examples_run_together(repository: Path, tmp_path: Path) -> None:
    """One small run with the new source, codec, tracker and sampler; then each left what its page says."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(40):
        colour = COLOURS[number % 4]
        Image.new("RGB", (32, 32), colour).save(pictures / f"a {colour} square_{number:02}.png")
    work = tmp_path / "work"
    settings = [
        "source.kind=named",
        f"source.path={pictures}",
        'model.codec={kind="mlp", inner=32}',
        'train.trackers=[{kind="csv"}]',
        'sample.generation.sampler={kind="ddim-eta", steps=3}',
        "sample.continued=0",
        "vae.steps=10",
        "vae.heldout_pictures=4",
        "train.steps=4",
        "tokenize.tokenizer.vocab_size=280",
        "pack.heldout_fraction=0.1",
    ]
    options = [option for setting in settings for option in ("--set", setting)]
    call(repository, "-m", "tfcli", "run", "smoke", "--work", str(work), "--until", "sample", "--json", *options)
    documents = [json.loads(line) for line in (work / "latents" / "documents" / "00000.jsonl").read_text().splitlines()]
    assert {document["segments"][0]["text"] for document in documents} == {f"a {colour} square" for colour in COLOURS}
    figures = [line.split(",") for line in (work / "checkpoint" / "csv" / "figures.csv").read_text().splitlines()]
    assert {"text_loss", "heldout_image_loss"} <= {name for _, name, _ in figures}
    manifest = json.loads((work / "checkpoint" / "manifest.json").read_text())
    assert manifest["content"]["model"]["codec"] == {"kind": "mlp", "inner": 32}
    assert list((work / "samples" / "images").glob("*.png"))


@pytest.mark.slow
def test_the_sampler_is_ddim_without_fresh_noise_and_ancestral_with_all_of_it(repository: Path) -> None:
    code = """
import torch
from stages.diffusion.process import Diffusion
from stages.diffusion.samplers import DdimSampler, DdpmSampler, EtaSampler, sample
from stages.diffusion.schedules import CosineSchedule

def sampled(sampler):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 4, generator=generator)
    noise = lambda: torch.randn(x.shape, generator=generator)
    return sample(sampler, lambda x, t: 0.9 * x, x, Diffusion(CosineSchedule()), noise, 4.0)

torch.testing.assert_close(sampled(EtaSampler(steps=9, eta=0)), sampled(DdimSampler(steps=9)))
torch.testing.assert_close(sampled(EtaSampler(steps=9, eta=1)), sampled(DdpmSampler(steps=9)))
assert not torch.allclose(sampled(DdimSampler(steps=9)), sampled(DdpmSampler(steps=9)))
"""
    call(repository, "-c", code)


@pytest.mark.slow
def test_the_examples_keep_the_rules_of_the_house(repository: Path) -> None:
    (repository / "tests").mkdir(exist_ok=True)
    shutil.copy(ROOT / "tests" / "test_house.py", repository / "tests")
    call(repository, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_house.py", "-k", "not benchmarks")
    call(repository, "-m", "ruff", "check", "--no-cache", "stages")
