"""Steps of a training against the same steps written down by hand: both losses, clipping, rate, AdamW, average, held-out loss."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stages.artifacts.checkpoint import EMA, METRICS, TIMING, WEIGHTS, Checkpoint, read_tensors
from stages.artifacts.context import StageContext
from stages.artifacts.folder import building
from stages.core.files import read_jsonl
from stages.core.runtime import Runtime
from stages.core.seeds import torch_generator
from stages.diffusion.config import DiffusionConfig
from stages.generation.config import GenerationConfig
from stages.model.config import ModelConfig
from stages.model.transformer import Transfusion
from stages.pack_sequences.config import PackConfig
from stages.train_model import stage
from stages.train_model.batches import Batch, rows_of_step
from stages.train_model.config import TrainConfig
from stages.train_model.data import Data
from stages.train_model.stage import run
from tests.builders import Story, make_all, stamp

MODEL = ModelConfig(width=32, layers=2, heads=2)
LAMBDA = 3.0
# a large epsilon: with the usual one a step of AdamW is the sign of a gradient, rounding of a tiny one included
TRAIN = TrainConfig(
    steps=3,
    batch_rows=2,
    micro_rows=1,
    warmup_steps=2,
    learning_rate=2e-2,
    final_learning_rate=0.0,
    epsilon=1e-3,
    clip_norm=0.3,
    ema_decay=0.5,
    log_every=1,
    eval_rows=2,
)


def trained(folder: Path, sequences: Path, config: TrainConfig, diffusion: DiffusionConfig) -> Checkpoint:
    with building(folder, stamp("checkpoint", "train", {"sequences": sequences}, folder), Runtime()) as build:
        run(MODEL, diffusion, config, GenerationConfig(), sequences, StageContext(build, Runtime(), 0))
    return Checkpoint.open(folder)


def losses(model: Transfusion, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Means over the targets, and over the images."""
    logits, outputs = model(batch.inputs, batch.attention, batch.loss_index)
    text = F.cross_entropy(logits, batch.targets)
    errors = [
        (output - truth.target_IChw).square().mean((1, 2, 3))
        for output, truth in zip(outputs, batch.images, strict=True)
    ]
    return text, torch.cat(errors).mean()


@pytest.mark.parametrize("draws", [1, 3])
def test_three_steps_are_those_written_down(tmp_path: Path, draws: int) -> None:
    stories = [Story((f"a text about the number {number}", None)) for number in range(40)]
    sequences = make_all(tmp_path / "work", stories, PackConfig(row_length=64, patch_side=2, heldout_fraction=0.2))
    diffusion = DiffusionConfig(image_weight=LAMBDA, noise_draws=draws)
    checkpoint = trained(tmp_path / "checkpoint", sequences, TRAIN, diffusion)
    # a key that came later is written where it is set: otherwise the content, and with it the digest, is what it was before
    assert checkpoint.content.diffusion.get("noise_draws") == (draws if draws > 1 else None)
    assert DiffusionConfig.model_validate(checkpoint.content.diffusion) == diffusion
    assert ModelConfig.model_validate(checkpoint.content.model) == MODEL

    data = Data(sequences, diffusion, MODEL)
    model = Transfusion(MODEL, data.dims)
    model.initialise(torch_generator(0, "weights"))
    average = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    first = {name: torch.zeros_like(weight) for name, weight in average.items()}
    second = {name: torch.zeros_like(weight) for name, weight in average.items()}
    norms = []
    for step, rate in enumerate((1e-2, 2e-2, 2e-2)):  # warm-up over two steps, then the cosine at its top
        rows = rows_of_step(data.content.num_rows, 2, 0, step)
        text, image = losses(model, data.train.make(rows, [(step, 0), (step, 1)], 0))
        (text + LAMBDA * image).backward()  # type: ignore[no-untyped-call]
        norms.append(math.sqrt(sum(float(weight.grad.square().sum()) for weight in model.parameters())))  # type: ignore[union-attr]
        shrink = min(1.0, TRAIN.clip_norm / norms[-1])
        with torch.no_grad():
            for name, weight in model.named_parameters():
                assert weight.grad is not None
                gradient = shrink * weight.grad
                decay = TRAIN.weight_decay if weight.ndim >= 2 and name != "text_embedding.weight" else 0.0
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.95 * second[name] + 0.05 * gradient.square()
                above = first[name] / (1 - 0.9 ** (step + 1))
                below = (second[name] / (1 - 0.95 ** (step + 1))).sqrt() + TRAIN.epsilon
                weight.mul_(1 - rate * decay).sub_(rate * above / below)
                kept = min(TRAIN.ema_decay, (1 + step) / (10 + step))
                average[name] = kept * average[name] + (1 - kept) * weight
                weight.grad = None
    assert min(norms) > 2 * TRAIN.clip_norm, "clipping is at work"

    for name, weight in read_tensors(checkpoint.folder / WEIGHTS).items():
        assert torch.allclose(weight, dict(model.named_parameters())[name], atol=2e-5), name
    for name, weight in read_tensors(checkpoint.folder / EMA).items():
        assert torch.allclose(weight, average[name], atol=2e-5), name
    written = [row for row in read_jsonl(checkpoint.folder / METRICS) if "grad_norm" in row]
    assert [row["grad_norm"] for row in written] == pytest.approx(norms, rel=1e-3)
    model.load_state_dict(average)
    with torch.no_grad():
        text_sum = image_sum = targets = images = 0.0
        for row in range(2):
            batch = data.heldout.make(np.array([row]), [("heldout", row)], 0)
            text, image = losses(model, batch)
            text_sum, targets = text_sum + float(text) * len(batch.targets), targets + len(batch.targets)
            image_sum, images = image_sum + float(image) * batch.num_images, images + batch.num_images
    found = checkpoint.manifest.stats["losses"]
    assert found["heldout_text_loss"] == pytest.approx(text_sum / targets, rel=1e-4)
    assert found["heldout_image_loss"] == pytest.approx(image_sum / images, rel=1e-4)


def test_conditioning_images_train_the_patch_encoder_and_not_the_decoder(tmp_path: Path) -> None:
    """Pictures to describe have no loss of their own; the text loss reaches the codec through them."""
    stories = [Story((f"a text about the number {number}", None)) for number in range(40)]
    pack = PackConfig(row_length=64, patch_side=2, caption_first=0.0, condition_dropout=0.0)
    sequences = make_all(tmp_path / "work", stories, pack)
    diffusion = DiffusionConfig(noise_limit=0)
    data = Data(sequences, diffusion, MODEL)
    batch = data.train.make(rows_of_step(data.content.num_rows, 2, 0, 0), [(0, 0), (0, 1)], 0)
    assert batch.num_images == 0
    assert batch.num_context > 0
    checkpoint = trained(tmp_path / "checkpoint", sequences, TRAIN, diffusion)
    model = Transfusion(MODEL, data.dims)
    model.initialise(torch_generator(0, "weights"))
    before, after = dict(model.named_parameters()), read_tensors(checkpoint.folder / WEIGHTS)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"patches.inward.weight", "patches.time.first.weight"} <= moved
    assert not {"patches.outward.weight", "patches.outward.bias"} & moved
    assert "heldout_image_loss" not in checkpoint.manifest.stats["losses"]
    assert all("image_loss" not in row for row in read_jsonl(checkpoint.folder / METRICS))


def test_a_training_killed_before_its_seal_keeps_all_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stories = [Story((f"a text about the number {number}", None)) for number in range(40)]
    sequences = make_all(tmp_path / "work", stories, PackConfig(row_length=64, patch_side=2))
    config = TRAIN.model_copy(update={"steps": 5, "save_every": 3})
    whole = trained(tmp_path / "whole", sequences, config, DiffusionConfig())
    real = stage.write_state

    def cut_off(*given: object) -> None:
        real(*given)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "write_state", cut_off)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", sequences, config, DiffusionConfig())
    monkeypatch.undo()
    cut = trained(tmp_path / "cut", sequences, config, DiffusionConfig())
    assert cut.manifest.digest == whole.manifest.digest
    timed = [[row["step"] for row in read_jsonl(made.folder / TIMING)] for made in (whole, cut)]
    assert timed == [[1, 2, 3, 4, 5]] * 2  # the digest does not cover them
