"""Fine-tuning begins where the checkpoint ended, on latents as it knew them, and only where both speak of the same things."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stages.artifacts.checkpoint import Checkpoint, read_tensors
from stages.artifacts.context import StageContext
from stages.artifacts.folder import building
from stages.artifacts.latents import Latents
from stages.artifacts.manifest import read_manifest
from stages.artifacts.sequences import Sequences
from stages.core.errors import ExitCode, TfcliError
from stages.core.runtime import Runtime
from stages.diffusion.config import DiffusionConfig
from stages.diffusion.schedules import CosineSchedule
from stages.diffusion.targets import VelocityTarget
from stages.generation import loading
from stages.generation.config import GenerationConfig
from stages.model.config import ModelConfig
from stages.pack_sequences.config import PackConfig
from stages.tokenize_text.config import PretrainedTokenizer, TokenizeConfig
from stages.train_model.config import TrainConfig
from stages.train_model.data import Data
from stages.train_model.finetune import Start
from stages.train_model.stage import run
from tests.builders import Story, edit_manifest, make_latents, make_sequences, make_tokens, stamp

MODEL = ModelConfig(width=32, layers=1, heads=2)
PACK = PackConfig(row_length=64, heldout_fraction=0.2)
TRAIN = TrainConfig(steps=4, batch_rows=2, warmup_steps=1, learning_rate=1e-3, eval_rows=1, ema_decay=0.9)


def train(folder: Path, sequences: Path, config: TrainConfig = TRAIN) -> Checkpoint:
    with building(folder, stamp("checkpoint", "train", {"sequences": sequences}, folder), Runtime()) as build:
        run(MODEL, DiffusionConfig(), config, GenerationConfig(), sequences, StageContext(build, Runtime(), 0))
    return Checkpoint.open(folder)


def with_statistics(sequences: Path, mean: float, deviation: float) -> None:
    """Sequences whose manifest states other statistics of the channels."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["content"].update(channel_mean=[mean] * 2, channel_std=[deviation] * 2)

    edit_manifest(sequences, change)


def made(work: Path, texts: list[str], tokenizer: Path | None = None, pack: PackConfig = PACK, **latents: Any) -> Path:
    """Sequences of caption pairs; tokenizer: the folder of finished tokens."""
    mean, deviation = latents.pop("statistics", (0.0, 1.0))
    stored = make_latents(work / "latents", [Story((text, None)) for text in texts], **latents)
    config = TokenizeConfig(tokenizer=PretrainedTokenizer(path=tokenizer)) if tokenizer else None
    sequences = make_sequences(work / "sequences", make_tokens(work / "tokens", stored, config), stored, pack)
    with_statistics(sequences, mean, deviation)
    return sequences


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    work = tmp_path_factory.mktemp("parent")
    sequences = made(work, [f"a pair {number}" for number in range(24)], statistics=(0.25, 2.0))
    return train(work / "checkpoint", sequences)


def new(parent: Checkpoint, work: Path, **options: Any) -> Path:
    tokens = parent.folder.parent / "tokens"
    return made(work, [f"another {number}" for number in range(30)], tokens, **options)


def start(parent: Checkpoint, sequences: Path, model: ModelConfig = MODEL, **diffusion: Any) -> Start:
    return Start.open(str(parent.folder), model, DiffusionConfig(**diffusion), Sequences.open(sequences))


def test_training_begins_with_the_averaged_weights_and_forgets_the_optimizer(
    parent: Checkpoint, tmp_path: Path
) -> None:
    average, raw = parent.weights(), read_tensors(parent.folder / "weights.safetensors")
    assert not torch.equal(average["final_norm.weight"], raw["final_norm.weight"])
    gentle = TRAIN.model_copy(
        update={"start_from": str(parent.folder), "learning_rate": 1e-9, "final_learning_rate": 0.0}
    )
    child = train(tmp_path / "checkpoint", new(parent, tmp_path), gentle)
    for name, weight in read_tensors(child.folder / "weights.safetensors").items():
        assert torch.allclose(weight, average[name], atol=1e-6)
    assert child.content.steps == 4
    assert child.manifest.stats["start_from"]["digest"] == parent.manifest.digest
    assert child.manifest.stats["start_from"]["weights"] == "running average"


def test_new_latents_are_normalised_as_the_checkpoint_knew_them(parent: Checkpoint, tmp_path: Path) -> None:
    sequences = new(parent, tmp_path, statistics=(-1.0, 0.5))
    child = train(tmp_path / "checkpoint", sequences, TRAIN.model_copy(update={"start_from": str(parent.folder)}))
    assert child.content.channel_mean == parent.content.channel_mean == [0.25, 0.25]
    assert child.content.channel_std == [2.0, 2.0]
    plain = Data(sequences, DiffusionConfig(), MODEL)
    started = Data(sequences, DiffusionConfig(), MODEL, start(parent, sequences))
    stored = plain.readers[0].read(plain.train.table.images[:, 3])[:, 0]
    assert started.latent_limit() == pytest.approx(float(abs((stored - 0.25) / 2.0).max()), rel=0.05)
    assert plain.latent_limit() == pytest.approx(float(abs((stored + 1.0) / 0.5).max()), rel=0.05)
    scale = started.train.images.scale
    assert (scale.mean.flatten().tolist(), scale.std.flatten().tolist()) == ([0.25, 0.25], [2.0, 2.0])


def test_pictures_are_read_and_drawn_as_the_checkpoint_knew_them(
    parent: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the statistics of the latents that it was fine-tuned on last."""
    sequences = new(parent, tmp_path, statistics=(-1.0, 0.5))
    child = train(tmp_path / "checkpoint", sequences, TRAIN.model_copy(update={"start_from": str(parent.folder)}))
    decoded: list[np.ndarray[Any, Any]] = []
    raw = np.array([[[[1.25]], [[-3.75]]]], np.float32)
    vae = SimpleNamespace(encode=lambda _: (raw, None), decode=lambda latents: decoded.append(latents))
    monkeypatch.setattr(loading, "load_vae", lambda *_, **__: vae)
    monkeypatch.setattr(Latents, "autoencoder", lambda _: SimpleNamespace(model_folder=tmp_path))
    model: Any = None
    loaded = loading.assemble(child, sequences, model, torch.device("cpu"))
    latent = loaded.encode_picture(np.zeros((4, 4, 3), np.uint8))
    assert latent.flatten().tolist() == pytest.approx([(1.25 - 0.25) / 2, (-3.75 - 0.25) / 2])
    loaded.decode_pictures(latent[None])
    assert decoded[0] == pytest.approx(raw)


def refused(parent: Checkpoint, sequences: Path, model: ModelConfig = MODEL, **diffusion: Any) -> TfcliError:
    with pytest.raises(TfcliError, match="does not fit this training") as caught:
        start(parent, sequences, model, **diffusion)
    assert caught.value.code == ExitCode.ARTIFACT
    return caught.value


def test_a_difference_is_named_with_its_fix(parent: Checkpoint, tmp_path: Path) -> None:
    fitting = new(parent, tmp_path / "fitting")
    assert start(parent, fitting, noise_limit=0, context_images="clean", image_weight=1.0)  # the loss may be another
    error = refused(parent, made(tmp_path / "words", [f"quite other words {number}" for number in range(30)]))
    assert "tokenizer" in error.why
    assert "tokens" in error.fix
    error = refused(parent, fitting, MODEL.model_copy(update={"layers": 3, "rope_base": 50.0}))
    assert error.why == "it was trained with model.layers = 1, model.rope_base = 10000.0"
    assert "schedule.offset" in refused(parent, fitting, schedule=CosineSchedule(offset=0.1)).why
    assert "target" in refused(parent, fitting, target=VelocityTarget()).why
    small = new(parent, tmp_path / "small", pack=PACK.model_copy(update={"patch_side": 1}))
    assert refused(parent, small).fix == "set pack.patch_side = 2"


def test_other_ids_of_sizes_are_refused(parent: Checkpoint, tmp_path: Path) -> None:
    with_size_tokens = new(parent, tmp_path, pack=PACK.model_copy(update={"size_tokens": True}))
    error = refused(parent, with_size_tokens)
    assert error.why == "its ids of sizes are none, those of these sequences 4x4"
    assert "pack.size_tokens = false" in error.fix


def other_autoencoder(raw: dict[str, Any], own: bool) -> None:
    raw["inputs"]["autoencoder"] = {"path": "../autoencoder", "kind": "autoencoder", "fingerprint": "", "digest": ""}
    if own:
        raw["content"]["autoencoder"]["weights_sha256"] = "0" * 64


def test_another_autoencoder_is_refused(parent: Checkpoint, tmp_path: Path) -> None:
    sequences = new(parent, tmp_path)
    for folder in (tmp_path / "latents", parent.folder.parent / "latents"):
        edit_manifest(folder, lambda raw, own=folder.parent == tmp_path: other_autoencoder(raw, own))
    error = refused(parent, sequences)
    assert "autoencoder" in error.why
    assert error.fix.endswith('/autoencoder" }')
    assert read_manifest(tmp_path / "latents") is not None
